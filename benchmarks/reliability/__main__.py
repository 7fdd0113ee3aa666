"""Repeat what goes wrong in practice, and print what was found as JSON.

python -m benchmarks.reliability concurrent --trials 200
python -m benchmarks.reliability kills --trials 500          # needs strace, and the right to trace
python -m benchmarks.reliability disks --trials 20           # needs root, to mount small file systems
python -m benchmarks.reliability power --trials 200          # needs strace
python -m benchmarks.reliability cost --before CHECKOUT --trials 30
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.reliability import concurrent, cost, disks, kills, power
from benchmarks.reliability.tracing import can_trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["concurrent", "kills", "disks", "power", "cost", "sample"])
    parser.add_argument("--trials", type=int, required=True, help="Trials, kills, sizes, cuts or pairs.")
    parser.add_argument("--folder", type=Path, help="Where to work; kept. Default: a temporary folder.")
    parser.add_argument("--before", type=Path, help="Checkout to compare the cost with.")
    parser.add_argument("--only", nargs="*", default=[], help="Names of commands, for kills and disks.")
    parser.add_argument("--seed", type=int, default=0, help="Of the points, sizes and pauses that are drawn.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.what == "concurrent":
            found = concurrent.measure(folder, options.trials, options.seed)
        elif options.what == "kills":
            found = kills.measure(folder, options.trials, options.only, options.seed)
        elif options.what == "disks":
            found = disks.measure(folder, options.trials, options.only, options.seed)
        elif options.what == "power":
            found = power.measure(folder, options.trials, options.seed)
        elif options.what == "sample":
            found = sample(folder, options.trials)
        else:
            if options.before is None:
                parser.error("cost needs --before")
            found = cost.measure(folder, options.before.resolve(), options.trials)
    print(json.dumps(found, indent=1))


def sample(folder: Path, trials: int) -> dict[str, Any]:
    """A little of every measure by name, or why this machine cannot take it."""
    strace, mounts = "strace is not installed, or may not be used", "file systems may not be mounted"
    traces = can_trace()
    return {
        "concurrent": concurrent.measure(folder, 1),
        "kills": kills.measure(folder, trials, ["embed npz"]) if traces else {"left out": strace},
        "power": power.measure(folder, trials) if traces else {"left out": strace},
        "disks": disks.measure(folder, trials, ["strip"]) if disks.can_mount(folder) else {"left out": mounts},
    }


if __name__ == "__main__":
    main()
