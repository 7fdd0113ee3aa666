"""Renames that one system call does whole: exchanging two paths, and refusing to replace anything.

``renameat2`` of Linux, through the C library. File systems without it (some network and FUSE ones), other systems and
older C libraries have neither, and callers fall back.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places, so that neither is ever absent.

    Returns:
        Whether the system can; if not, nothing was done.

    Raises:
        OSError: It can, and failed.
    """
    return _rename(first, second, _EXCHANGE)


def rename_to_new(source: Path, target: Path) -> bool:
    """Rename, where nothing is there to be replaced, an empty directory included.

    Returns:
        Whether the system can; if not, nothing was done.

    Raises:
        FileExistsError: Something is there.
        OSError: It failed otherwise.
    """
    return _rename(source, target, _NOREPLACE)


def _rename(source: Path, target: Path, flags: int) -> bool:
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@cache
def _renameat2() -> Any:
    if os.name != "posix":
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call
