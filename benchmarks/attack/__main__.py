"""Attack the server, readers and bundles for so many minutes, and print what was found as a table.

    python -m benchmarks.attack --minutes 30
    python -m benchmarks.attack --minutes 2 --only json slow
    python -m benchmarks.attack --minutes 10 --only readers --seed 7

Kills, full disks, power cuts and concurrent writers: ``python -m benchmarks.reliability``.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.attack.bundles import damage_manifests
from benchmarks.attack.server import ATTACKS, attack
from tests.support.fuzzing.worker import fuzz

SECONDS = 12.0
"""Of one attack on the server."""

MUTANTS = 500
"""That are read at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0, help="Of attacks, and number of the first mutant.")
    parser.add_argument("--only", nargs="*", choices=[*ATTACKS, "readers", "manifests"], default=[])
    options = parser.parse_args()
    chosen = options.only or [*ATTACKS, "readers", "manifests"]
    end, turn, failures = time.monotonic() + 60 * options.minutes, 0, []
    print(f"seed {options.seed}; attacks of {SECONDS:g} s\n")
    print("| Attack | Health p50, p99, max (ms) | Good requests, p99 (ms) | Attackers got | Peak MB |")
    print("|---|---|---|---|---|")
    while turn == 0 or time.monotonic() < end:
        seed = options.seed + turn
        for name in chosen:
            if turn and time.monotonic() >= end:
                break
            if name == "readers":
                report = fuzz(MUTANTS, options.seed + turn * MUTANTS)
                found, wrong = dict(report.outcomes), report.failures
            elif name == "manifests":
                found, wrong = damage_manifests(MUTANTS, options.seed + turn * MUTANTS)
            else:
                wrong = _server(name, seed)
            if name not in ATTACKS:
                print(f"| {name}, {MUTANTS} mutants from {options.seed + turn * MUTANTS} | | | {found} | |", flush=True)
            failures += [f"{name}, seed {seed}: {what}" for what in wrong]
        turn += 1
    print("\n" + ("\n".join(failures) or "no failures"))
    sys.exit(bool(failures))


def _server(name: str, seed: int) -> list[str]:
    found = attack(name, SECONDS, seed)
    asked = found.probe
    print(
        f"| {name} | {asked['health_p50']}, {asked['health_p99']}, {asked['health_max']} of {asked['health']} "
        f"| {asked['good']} asked, {asked['good_failed']} unanswered, {asked['good_p99']} "
        f"| {dict(found.seen)} | {found.peak:.0f} |",
        flush=True,
    )
    return found.failures


if __name__ == "__main__":
    main()
