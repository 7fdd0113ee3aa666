"""Weights of a loaded graph in memory of the process, so that nothing that becomes of their files can matter.

ONNX Runtime maps files of weights. It copies most tensors as it packs them for its kernels, and keeps the pages of the
others mapped: a file that is overwritten would change results, and one that is truncated would end the process with
SIGBUS. These pages, a few MB of any model, are replaced by copies as soon as a graph is loaded.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (r\S{3}) \S+ \S+ \S+ +(/.*)")
_READ_WRITE, _PRIVATE_ANONYMOUS, _FIXED_MOVE = 1 | 2, 2 | 0x20, 1 | 2

# While one graph is loaded its pages are mapped and unmapped, so no other thread may look at them.
_one_at_a_time = Lock()


@contextmanager
def detached(folder: Path) -> Iterator[None]:
    """Around loading a graph: afterwards, no file in or below a folder is mapped.

    Only Linux lists what is mapped. Elsewhere this does nothing, and files must not change while the graph is used.

    Args:
        folder: Holds the files of weights.
    """
    with _one_at_a_time:
        yield
        for start, size in _mapped(folder):
            _copy(start, size)


def _mapped(folder: Path) -> list[tuple[int, int]]:
    """Address and size of every mapping of a file in or below a folder."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    inside = f"{folder.resolve()}/"
    found = [match for match in map(_LINE.fullmatch, lines) if match and match[4].startswith(inside)]
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
