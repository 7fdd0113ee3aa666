"""How much of the CPU a container may use.

A limit such as `--cpus 2` leaves every core of the machine visible, and takes time away from whoever uses more. Threads
for all visible cores would then stop one another for most of each period.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cpu_limit(groups: str, root: Path = ROOT) -> float:
    """Cores' worth of CPU time that a process may use; infinite where nothing limits it.

    Source: the kernel's documentation of control groups, on ``cpu.max`` of version 2, and on ``cpu.cfs_quota_us`` of
    version 1.

    Args:
        groups: What ``/proc/self/cgroup`` says of the process.
        root: Where control groups are mounted. In a container this may be the group of the container itself, whose path
            in ``groups`` then does not exist.
    """
    return min(_limits(groups, root), default=math.inf)


def _limits(groups: str, root: Path) -> Iterator[float]:
    """The limit of every group that the process is in, of each of which it may use no more."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _upwards(root, path):
                yield _share(read(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / "cpu", path):
                yield _share(f"{read(folder / 'cpu.cfs_quota_us')} {read(folder / 'cpu.cfs_period_us')}")


def _upwards(root: Path, path: str) -> list[Path]:
    folder = root / path.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _share(text: str) -> float:
    """Quota and period in microseconds to cores. No limit is 'max' in version 2 and -1 in version 1."""
    match = re.fullmatch(r"(\d+) (\d+)", text)
    return int(match[1]) / int(match[2]) if match and int(match[1]) and int(match[2]) else math.inf


def read(path: Path) -> str:
    """The text of a small file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
