"""Writing so that nothing is ever half there: under a temporary name first, renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from naflex_deploy.core.errors import NaflexError, OutputError

_REPLACED = "-replaced"


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
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        refuse_existing(path, force=force)
        partial = _partial(path)
        partial.mkdir()
    try:
        with explain_os_errors(path):
            yield partial
            refuse_existing(path, force=force)
            if path.exists():
                _replace(path, partial)
            else:
                partial.rename(path)
    finally:
        _remove(partial)


def copy_files(source: Path, target: Path, names: Iterable[str], *, link: bool = False) -> None:
    """Put files of one directory into another.

    Args:
        source, target: The directories.
        names: Paths of the files, relative to either.
        link: Take no room twice, where the file system has hard links.
    """
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            (os.link if link else shutil.copy2)(source / name, target / name)
        except OSError:
            if not link:
                raise
            shutil.copy2(source / name, target / name)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file that appears at ``path``, replacing what stood there, when the block ends without an error.

    Raises:
        OutputError: It cannot be written; names the reason.
    """
    partial = _partial(path)
    try:
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            yield partial
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def _replace(path: Path, new: Path) -> None:
    old = path.with_name(f"{new.name}{_REPLACED}")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    _remove(old)


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left beside ``path``; put back what one was about to replace."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
        pid = leftover.name.rpartition(".partial-")[2].removesuffix(_REPLACED)
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if leftover.name.endswith(_REPLACED) and not path.exists():
            leftover.rename(path)
        else:
            _remove(leftover)


def _alive(pid: int) -> bool:
    """Whether another process has that number. One's own number was an earlier process's: containers reuse it."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
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
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `OutputError` that says why ``path`` cannot be written."""
    try:
        yield
    except NaflexError:
        raise
    except OSError as error:
        reason, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
        raise OutputError(f"cannot write {path}: {reason}", hint=hint) from error
