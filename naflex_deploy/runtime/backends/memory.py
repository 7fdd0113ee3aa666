"""Weights of a loaded graph in memory of the process, so that nothing that becomes of their files can matter.

ONNX Runtime maps files of weights, as we do for OpenVINO. Both copy most tensors as they pack them for their kernels,
and keep pages mapped, ONNX Runtime a few MB of any model and OpenVINO all of it: a file that is overwritten would
change results, and one that is truncated would end the process with SIGBUS. These pages are replaced by copies as soon
as a graph is loaded. Until then the kernel lets whoever opens such a file for writing wait, by a lease on it. Reading
files instead of mapping them would take as much memory again as the model, and three times the CPU time of loading.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (r\S{3}) \S+ \S+ \S+ +(/.*)")
_READ_WRITE, _PRIVATE_ANONYMOUS, _FIXED_MOVE = 1 | 2, 2 | 0x20, 1 | 2

# While one graph is loaded its pages are mapped and unmapped, so no other thread may look at them.
_one_at_a_time = Lock()


@contextmanager
def detached(files: Iterable[Path]) -> Iterator[None]:
    """Around loading a graph: files stay as they are meanwhile, and none of them is mapped afterwards.

    Only Linux has leases and lists what is mapped. Elsewhere this does nothing, and files must not change while the
    graph is used. A lease can be had by the user whom a file belongs to, on a local file system, while nobody has the
    file open for writing; without one, a file that is truncated meanwhile can end the process with SIGBUS.

    Args:
        files: Of weights.
    """
    files = [file.resolve() for file in files if file.is_file()]
    with _one_at_a_time, ExitStack() as leases:
        for file in files:
            leases.enter_context(leased(file))
        yield
        for start, size in _mapped(files):
            _copy(start, size)


@contextmanager
def leased(file: Path) -> Iterator[bool]:
    """While this holds, whoever opens a file for writing, or truncates it, waits: at most 45 s by default.

    Yields whether it holds; see ``F_SETLEASE`` in fcntl(2).
    """
    held = False
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with suppress(ImportError, AttributeError, OSError):  # no system, file system or owner that could
            import fcntl

            # Who waits is announced by a signal: this one is ignored by default, while SIGIO ends a process.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            held = True
        yield held
    finally:
        os.close(descriptor)  # and with it the lease


def _mapped(files: Iterable[Path]) -> list[tuple[int, int]]:
    """Address and size of every mapping of one of the files."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    names = {f"{file}{end}" for file in files for end in ("", " (deleted)")}
    found = [match for match in map(_LINE.fullmatch, lines) if match and match[4] in names]
    return [(int(match[1], 16), int(match[2], 16) - int(match[1], 16)) for match in found]


def _copy(start: int, size: int) -> None:
    """Put a copy in the place of mapped pages, by one call, so that a reader sees one or the other."""
    libc = _libc()
    copy = libc.mmap(None, size, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if copy in (None, ctypes.c_void_p(-1).value):
        raise MemoryError(f"cannot copy {size} bytes of weights")
    ctypes.memmove(copy, start, size)
    if libc.mremap(copy, size, size, _FIXED_MOVE, start) != start:
        raise OSError(ctypes.get_errno(), "cannot put a copy in the place of mapped weights")


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
    return libc
