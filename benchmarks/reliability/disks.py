"""Full disks of many sizes under every command that writes: one message, exit code 2, and nothing half-written left."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reliability.commands import Run, left, run
from benchmarks.reliability.kills import Command, commands

JOURNALS = (".out.npz.journal", ".out.jsonl.journal", ".out.parquet.journal", ".calibration.json.journal")
"""What stays, for --resume."""


def measure(folder: Path, sizes: int, only: list[str], seed: int = 0) -> dict[str, Any]:
    """Run each command on file systems from nearly nothing up to nearly what it needs.

    Needs root, to mount them.
    """
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    shift = random.Random(seed).random() if seed else 0.0
    faults: list[str] = []
    counts: dict[str, Counter[str]] = {}
    for name, command in commands(folder, place).items():
        if only and name not in only:
            continue
        counts[name] = Counter()
        prepared, peak = _needs(place, command)
        for number in range(sizes):
            free = round((peak - prepared) * (number + shift) / sizes)
            with _mounted(place, 4 * prepared + 65536):
                command.prepare()
                before = left(place)
                _fill(place, free)
                ended = run(*command.arguments)
                counts[name]["refused" if ended.refused else f"exit {ended.code}"] += 1
                after = [path for path in left(place) if path != "fill"]
                unexpected = [path for path in sorted(set(after) - set(before)) if not _may_stay(path)]
                counts[name]["journal kept"] += any(path in JOURNALS for path in after)
                if ended.code not in (0, 2) or (ended.code == 2 and not ended.refused):
                    faults.append(f"{name}, {free} kB free: exit {ended.code}: {ended.said[-400:]}")
                if ended.code == 2 and unexpected:
                    faults.append(f"{name}, {free} kB free: left {unexpected}")
        if not counts[name]["refused"]:
            faults.append(f"{name}: no size was too small")
    return {"sizes": sizes, "commands": counts, "faults": faults}


def can_mount(folder: Path) -> bool:
    """Whether this process may mount file systems."""
    if os.geteuid() or not shutil.which("unshare"):
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", folder]
    return subprocess.run(command, capture_output=True).returncode == 0


def _may_stay(path: str) -> bool:
    """Journals, folders that were asked for, and whole files of tokens and previews."""
    top = path.split("/")[0]
    return (
        top in JOURNALS or path in ("tokens", "previews") or path.endswith((".npy", ".png")) or path == "bundle/reports"
    )


def _needs(place: Path, command: Command) -> tuple[int, int]:
    """kB that lie there before, and the most that do at any moment of a run."""
    with _mounted(place, 2**20):
        command.prepare()
        before = peak = _used(place)
        started = Run(*command.arguments)
        while not started.ended():
            peak = max(peak, _used(place))
            time.sleep(0.02)
        started.wait()
        return before, max(peak, _used(place))


def _used(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // 1024


@contextmanager
def _mounted(place: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _fill(place: Path, free: int) -> None:
    """Leave so many kB, at least a page on an empty disk: a size of 0 means no limit."""
    subprocess.run(["mount", "-o", f"remount,size={max(_used(place) + free, 4)}k", place], check=True)
