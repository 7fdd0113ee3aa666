"""CPU time of ``embed`` in two checkouts, by turns; and how much of it is syncing."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reliability.commands import built, drawn

IMAGES = 200
HERE = Path(__file__).parents[2]
RESAMPLES = 10_000


def measure(folder: Path, before: Path, pairs: int) -> dict[str, Any]:
    """The ratio of this checkout's CPU time over another's, its median and a 95 % interval by bootstrap over pairs."""
    bundle, images = built(folder), folder / "many"
    drawn(images, IMAGES)
    output = folder / "cost.npz"
    ratios, seconds = [], []
    for number in range(pairs + 1):
        order = (before, HERE) if number % 2 else (HERE, before)
        spent = {checkout: _cpu_seconds(checkout, bundle, images, output) for checkout in order}
        if number:  # the first pair warms caches
            ratios.append(spent[HERE] / spent[before])
            seconds.append(spent[HERE])
    rng = np.random.default_rng(0)
    medians = [statistics.median(rng.choice(ratios, pairs)) for _ in range(RESAMPLES)]
    return {
        "pairs": pairs,
        "images": IMAGES,
        "cpu_seconds": round(statistics.median(seconds), 3),
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(float(edge), 4) for edge in np.quantile(medians, (0.025, 0.975))],
        "syncing": _syncing(bundle, images, output),
    }


def _command(bundle: Path, images: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "naflex_deploy", "embed", str(bundle), str(images), "-o", str(output), "--force"]


def _environment(checkout: Path) -> dict[str, str]:
    """That of a process which imports a checkout. Compiled modules are kept, as they are in an installation."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(checkout)}


def _cpu_seconds(checkout: Path, bundle: Path, images: Path, output: Path) -> float:
    shutil.rmtree(output, ignore_errors=True)
    with subprocess.Popen(
        _command(bundle, images, output),
        cwd=checkout,
        env=_environment(checkout),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stderr is not None
        if process.returncode:
            raise RuntimeError(process.stderr.read().decode())
    return usage.ru_utime + usage.ru_stime


def _syncing(bundle: Path, images: Path, output: Path) -> dict[str, float]:
    """Calls of ``fsync`` in one run, and the seconds that they took."""
    command = ["strace", "-f", "-T", "-e", "trace=fsync,fdatasync", *_command(bundle, images, output)]
    ended = subprocess.run(command, cwd=HERE, env=_environment(HERE), capture_output=True, text=True)
    times = [float(seconds) for seconds in re.findall(r"sync\(.*<([\d.]+)>", ended.stderr)]
    return {"calls": len(times), "seconds": round(sum(times), 4)}
