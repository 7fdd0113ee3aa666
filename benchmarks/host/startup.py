"""Measures time and memory from start to first result: import, load, one image, each run in a new process.

    python -m benchmarks.host.startup build/doc-ocr [--runs 7]

Prints the median of each step. ``cpu_seconds``, which includes the start of the interpreter, tells a busy machine from
slow code. The first run, which fills the file cache and compiles bytecode, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from naflex_deploy.core.machine import cpu_name, system_name

GOALS = {"seconds": 0.6, "megabytes": 200.0}

RUN = """
import time
start = time.perf_counter()
import naflex_deploy as nd
import naflex_deploy.runtime.engine
imported = time.perf_counter()
engine = nd.load({bundle!r})
loaded = time.perf_counter()
import numpy
engine.embed([numpy.full((480, 640, 3), 127, numpy.uint8)])
done = time.perf_counter()
import json, resource, sys
kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
print(json.dumps(dict(
    imports=imported - start, load=loaded - imported, first_result=done - loaded, seconds=done - start,
    cpu_seconds=time.process_time(), megabytes=kib * 1024 / 1e6,
)))
"""


def measure(bundle: Path) -> dict[str, float]:
    script = RUN.format(bundle=str(bundle))
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    measure(arguments.bundle)
    runs = [measure(arguments.bundle) for _ in range(arguments.runs)]
    print(f"{cpu_name()}; {system_name()}; load {os.getloadavg()[0]:.1f}; median of {len(runs)} processes")
    for name in runs[0]:
        values = [run[name] for run in runs]
        unit, goal = ("MB" if name == "megabytes" else "s"), GOALS.get(name)
        against = "" if goal is None else f"   goal < {goal:g} {unit}"
        print(f"{name:13} {statistics.median(values):8.3f} {unit}   best {min(values):.3f}{against}")


if __name__ == "__main__":
    main()
