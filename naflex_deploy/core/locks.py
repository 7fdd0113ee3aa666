"""One writer an output: a lock beside it that the kernel releases when its owner dies.

The lock is ``flock`` on a file ``.NAME.lock``, so it holds between processes, threads and containers that share a
volume, whatever their process numbers are. The file names its owner for messages only; nothing is decided by what it
says. The owner removes it at the end, and one that a killed process left behind is taken over. While a writer holds the
lock, every other file under a temporary name of the lock was left by a dead writer, and is removed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from naflex_deploy.core.errors import OutputError, explain_os_errors

_OTHERS = 0o666
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO)
_READS, _PAUSE = 20, 0.01

_waiting: ContextVar[Callable[[str], None] | None] = ContextVar("waiting", default=None)


class LockedError(OutputError):
    """Somebody else is writing this output now."""


@dataclass(frozen=True)
class Lock:
    """A lock that is held.

    Attributes:
        path: The output that it guards.
    """

    path: Path

    def partial(self) -> Path:
        """A temporary name beside the output that nobody else uses."""
        return self.path.with_name(f".{self.path.name}.partial-{secrets.token_hex(8)}")

    @property
    def replaced(self) -> Path:
        """Where an output stands while another takes its place, on a file system that cannot exchange the two."""
        return replaced_by_switch(self.path)


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Be the only writer of an output; what killed writers left of it is removed first.

    Args:
        path: The output, which need not exist. Its folder is made.

    Raises:
        LockedError: Somebody else is writing it; names them. Inside `waiting`, this waits for them instead.
        OutputError: The lock cannot be taken: the folder is read-only, full, or has no locks.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    file = _file(path)
    try:
        lock = Lock(path)
        with explain_os_errors(path):
            _name_owner(descriptor)
            _sweep(lock)
        yield lock
    finally:
        # Removed before it is released: whoever waits finds the name gone, and makes a new file.
        with suppress(OSError):
            if _is_still(descriptor, file):
                file.unlink()
        os.close(descriptor)


@contextmanager
def waiting(report: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, `locked` waits for other writers.

    Args:
        report: Called with a line that says who is waited for.
    """
    token = _waiting.set(report)
    try:
        yield
    finally:
        _waiting.reset(token)


def standing(path: Path) -> Path:
    """Where an output can be read: its own path, or its old content while a new one is put in its place."""
    switched = replaced_by_switch(path)
    return switched if not path.exists() and switched.exists() else path


def replaced_by_switch(path: Path) -> Path:
    """The name that an output has between the two renames of a replacement without an exchange."""
    return path.with_name(f".{path.name}.replaced")


def remove(path: Path) -> None:
    """Remove a file, a link or a directory, which need not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _acquire(path: Path) -> int:
    """An open descriptor of the lock file, locked."""
    file = _file(path)
    while True:
        descriptor = _open(file, path)
        try:
            _flock(descriptor, file, path)
            if _is_still(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(file: Path, path: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), _OTHERS)
    except PermissionError:
        if not os.path.lexists(file):
            raise
        raise OutputError(
            f"cannot write {path}: its lock {file.name} belongs to another user ({_owner_of(file)})",
            hint=f"once they are done, have them remove {file}, or choose another output",
        ) from None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        raise OutputError(
            f"cannot write {path}: {file.name}, which has to be a file for its lock, is a directory or a link",
            hint=f"remove {file}, or choose another output",
        ) from None


def _owner_of(file: Path) -> str:
    try:
        return file.owner()
    except (KeyError, OSError):
        return f"uid {file.stat().st_uid}"


def _flock(descriptor: int, file: Path, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # only Windows has none, which is no target: writers there are not kept apart
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise OutputError(
                f"cannot write {path}: its file system has no locks, so another run could write it at the same time",
                hint="write to a local disk, or mount the volume with locks",
            ) from None
        if not isinstance(error, BlockingIOError):
            raise
        message = f"{path} is being written by {_read_owner(descriptor, file)}"
        report = _waiting.get()
        if report is None:
            raise LockedError(message, hint="wait until it is done: pass --wait, or choose another output") from None
        report(f"{message}; waiting for it to end")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_still(descriptor: int, file: Path) -> bool:
    """Whether the file that was locked has its name still: its last owner may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _name_owner(descriptor: int) -> None:
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, f"{json.dumps(owner)}\n".encode())


def _read_owner(descriptor: int, file: Path) -> str:
    """Who holds a lock. They may be about to write it, so it is read for a moment before it is given up."""
    for _ in range(_READS):
        with suppress(ValueError, KeyError, TypeError, OSError):
            os.lseek(descriptor, 0, os.SEEK_SET)
            owner = json.loads(os.read(descriptor, 4096))
            return f"process {int(owner['process'])} on {str(owner['host'])[:200]!r} since {str(owner['since'])[:40]}"
        time.sleep(_PAUSE)
    return f"another process ({file.name} does not say which)"


def _sweep(lock: Lock) -> None:
    """Remove what killed writers left; give an output back that one of them was about to replace."""
    if not lock.path.exists() and lock.replaced.exists():
        lock.replaced.rename(lock.path)
    remove(lock.replaced)
    ours = re.compile(re.escape(f".{lock.path.name}.partial-") + r"[0-9a-f]{16}")
    with os.scandir(lock.path.parent) as entries:
        left = [entry.name for entry in entries if ours.fullmatch(entry.name)]
    for name in left:
        remove(lock.path.with_name(name))
