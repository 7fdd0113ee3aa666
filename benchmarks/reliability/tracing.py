"""System calls of a run, by strace: recorded, or with a kill before one of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.reliability.commands import Ended, Run

CALLS = (
    *("open", "openat", "creat", "write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("link", "linkat", "flock"),
)
"""Those that change what is on disk, or open what will."""


UNFINISHED = "<unfinished ...>"
RESUMED = re.compile(r"\d+ +<\.\.\. \w+ resumed>(.*)")


def can_trace() -> bool:
    """Whether strace is installed and may be used."""
    command = ["strace", "-o", os.devnull, "-e", "trace=none", "true"]
    return bool(shutil.which("strace")) and subprocess.run(command, capture_output=True).returncode == 0


def traced(arguments: Sequence[object], options: Sequence[str], calls: Sequence[str] = CALLS) -> Ended:
    """A run under strace.

    Args:
        arguments: Of the command line.
        options: Of strace.
        calls: That it looks at.
    """
    run = Run(*arguments, stopped=True)
    os.waitpid(run.pid, os.WUNTRACED)
    names = ",".join(f"?{call}" for call in calls)
    command = ["strace", "-f", "-p", str(run.pid), "-e", f"trace={names}", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        for line in strace.stderr:
            if "attached" in line:
                break
        os.kill(run.pid, signal.SIGCONT)
        ended = run.wait()
        strace.stderr.read()
    return ended


def record(arguments: Sequence[object], file: Path, *options: str, calls: Sequence[str] = CALLS) -> Ended:
    """A run whose system calls go to a file."""
    return traced(arguments, ["-o", str(file), "-y", *options], calls)


def whole(lines: Iterable[str]) -> Iterator[str]:
    """Lines of strace, with each call whole where it ended.

    A call during which another thread made one is written in two: ``7 write(3, "a" <unfinished ...>``, and later
    ``7 <... write resumed>) = 1``.
    """
    begun: dict[str, str] = {}
    for line in lines:
        process = line.split(maxsplit=1)[0] if line.strip() else ""
        if line.endswith(UNFINISHED):
            begun[process] = line.removesuffix(UNFINISHED)
        elif resumed := RESUMED.match(line):
            # strace began to look between the two halves if the first is not there.
            if process in begun:
                yield begun.pop(process).rstrip(" ") + resumed[1]
        else:
            yield line


def killed_before(arguments: Sequence[object], call: str, number: int) -> Ended:
    """A run that is killed as it begins a system call for the n-th time."""
    return traced(arguments, ["-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}"])


def points(recorded: Path, folder: Path) -> list[tuple[str, int]]:
    """(call, n) of every recorded system call of the first process that touches a folder and may change it."""
    seen: Counter[str] = Counter()
    found = []
    lines = recorded.read_text(errors="replace").splitlines()
    first = lines[0].split()[0]
    for line in lines:
        match = re.match(r"(\d+) +(\w+)\(", line)
        if not match or match[1] != first:
            continue
        seen[match[2]] += 1
        reads = match[2].startswith("open") and "O_WRONLY" not in line and "O_RDWR" not in line
        if str(folder) in line and not reads:
            found.append((match[2], seen[match[2]]))
    return found
