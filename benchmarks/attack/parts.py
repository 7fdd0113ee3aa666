"""Every attack, by name, as a function of a seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.attack.bundles import damage_manifests
from benchmarks.attack.result import Result
from benchmarks.attack.server import ATTACKS, attack
from tests.support.fuzzing.worker import fuzz

SECONDS = 12.0
"""Of one attack on the server."""

MUTANTS = 10_000
"""That are read with one seed."""

FAULTS = 5_000
"""Requests to a server whose engine is killed and reloaded."""

Part = Callable[[int, Path], Result]
"""Takes a seed, and a folder that all of them may use."""


def on_server(name: str, bundle: Path | None, seed: int, folder: Path) -> Result:
    """An attack on the server; see `attack`."""
    return attack(name, SECONDS, seed, bundle)


def _readers(seed: int, folder: Path) -> Result:
    report = fuzz(MUTANTS, seed * MUTANTS)
    counts = {reader: dict(outcomes) for reader, outcomes in report.readers.items()}
    return Result("readers", seed, counts, report.failures, peak=1.048576 * report.peak)


def _bundles(seed: int, folder: Path) -> Result:
    outcomes, failures = damage_manifests(MUTANTS, seed * MUTANTS)
    return Result("bundles", seed, {kind: dict(found) for kind, found in outcomes.items()}, failures)


def _faults(seed: int, folder: Path) -> Result:
    from benchmarks.serving.faults import run

    seen, problems = run(FAULTS, 0.2, seed=1000 * seed)
    return Result("requests with faults", seed, {"requests with faults": dict(seen)}, problems)


def _reliability(what: str, trials: int, seed: int, folder: Path) -> Result:
    """A part of ``python -m benchmarks.reliability``. Kills and full disks meet one command with each seed, in turn."""
    from benchmarks.reliability import disks, kills
    from benchmarks.reliability.tracing import can_trace

    able = {"kills": can_trace, "power": can_trace, "disks": partial(disks.can_mount, folder)}.get(what)
    if able is not None and not able():
        return Result(what, seed, {what: {"left out, as this machine does not allow it": 0}}, [])
    command = [sys.executable, "-m", "benchmarks.reliability", what, "--trials", str(trials), "--seed", str(seed)]
    command += ["--folder", str(folder)]
    if what in ("kills", "disks"):
        names = list(kills.commands(folder, folder / what))
        command += ["--only", names[seed % len(names)]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Result(what, seed, {what: {"not run": 1}}, [done.stderr[-500:]])
    found = json.loads(done.stdout)
    counts = found.get("commands") or {what: {name: value for name, value in found.items() if isinstance(value, int)}}
    for outcomes in counts.values():
        for name in ("trials", "points"):  # which say how many there could be
            outcomes.pop(name, None)
    return Result(what, seed, counts, found["faults"])


PARTS: dict[str, Part] = {
    **{name: partial(on_server, name, None) for name in ATTACKS},
    "readers": _readers,
    "bundles": _bundles,
    "faults": _faults,
    "concurrent": partial(_reliability, "concurrent", 5),
    "kills": partial(_reliability, "kills", 10),
    "disks": partial(_reliability, "disks", 5),
    "power": partial(_reliability, "power", 8),
}
