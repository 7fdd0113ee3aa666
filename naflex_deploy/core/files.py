"""Writing so that nothing is ever half there: under a temporary name first, renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from naflex_deploy.core.errors import NaflexError, OutputError


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to write over something.

    Raises:
        OutputError: ``path`` exists and ``force`` is off.
    """
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", hint="choose another name, or pass --force to replace it")


@contextmanager
def new_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A directory that appears at ``path`` when the block ends without an error, and not at all otherwise.

    Args:
        path: Where it shall stand.
        force: Replace what stands there; until the new one is whole, the old one stays.

    Raises:
        OutputError: It exists, or cannot be written; names the reason.
    """
    refuse_existing(path, force=force)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        partial = _partial(path)
        partial.mkdir()
    try:
        with _explained(path):
            yield partial
            if path.exists():
                replaced = path.with_name(f"{partial.name}-replaced")
                path.rename(replaced)
                partial.rename(path)
                _remove(replaced)
            else:
                partial.rename(path)
    finally:
        _remove(partial)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file that appears at ``path``, replacing what stood there, when the block ends without an error.

    Raises:
        OutputError: It cannot be written; names the reason.
    """
    partial = _partial(path)
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left beside ``path``."""
    for leftover in path.parent.glob(f".{path.name}.partial-*"):
        pid = leftover.name.rpartition(".partial-")[2].removesuffix("-replaced")
        if pid.isdigit() and not _alive(int(pid)):
            _remove(leftover)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
    errno.EROFS: ("the file system is read-only", "write to another directory"),
    errno.EACCES: ("permission is denied", "write to a directory of yours"),
    errno.ENOTDIR: ("a part of the path is a file", "write to another directory"),
    errno.EEXIST: ("a part of the path is a file", "write to another directory"),
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except NaflexError:
        raise
    except OSError as error:
        reason, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
        raise OutputError(f"cannot write {path}: {reason}; nothing was left behind", hint=hint) from error
