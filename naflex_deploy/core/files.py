"""Files that users wrote, and writing so that nothing is ever half there.

What is written gets a temporary name, is synced to disk, and is renamed. Text is UTF-8; what users wrote may begin with
a byte-order mark, as some editors and spreadsheets write it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from naflex_deploy.core.errors import OutputError, UsageError, explain_os_errors
from naflex_deploy.core.exchange import exchange, rename_to_new
from naflex_deploy.core.locks import Lock, locked, remove

_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path, *, hint: str) -> str:
    """The text of a file, without a byte-order mark.

    Args:
        path: The file.
        hint: What kind of file to give, for where it cannot be read.

    Raises:
        UsageError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None


def read_rows(path: Path, *, hint: str) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, each with the number of its line.

    Raises:
        UsageError: The file cannot be read, or is not CSV in UTF-8.
    """
    reader = csv.reader(io.StringIO(read_text(path, hint=hint), newline=""))
    try:
        return [(reader.line_num, row) for row in reader if "".join(row).strip()]
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV file: {error}", hint=hint) from None


Identity = tuple[int, int, int, int]
"""Of a file on disk: device, inode, bytes, time of its last change in nanoseconds."""


def identity(path: Path) -> Identity | None:
    """What tells a file or directory from another one, or from itself after a change; ``None`` where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def refuse_existing(path: Path, *, force: bool, made: str | None = None) -> None:
    """Refuse to write over something.

    Args:
        path: Of an output.
        force: Replace what stands there.
        made: Pattern of what lies in a directory of the kind that is written; ``force`` replaces nothing else, but for
            an empty directory. ``None`` where a file is written, which replaces no directory.

    Raises:
        OutputError: ``path`` exists and may not be replaced.
    """
    if path.exists() and not force:
        raise OutputError(f"{path} exists already", hint="choose another name, or pass --force to replace it")
    if made is None and path.is_dir():
        raise OutputError(f"{path} is a directory, expected the name of a file", hint="choose another name")
    if made and path.exists() and not (path.is_dir() and (any(path.glob(made)) or not any(path.iterdir()))):
        raise OutputError(
            f"{path} has no {made}, so it was not made by this command, and --force does not replace it",
            hint="choose another name",
        )


@contextmanager
def reserved(path: Path, *, force: bool, made: str | None = None) -> Iterator[Lock]:
    """Be the only writer of an output that takes long to make, from before it is looked for until it is written.

    Args:
        path, force, made: See `refuse_existing`.

    Raises:
        LockedError: Somebody else is writing it.
        OutputError: It exists already and ``force`` is off, or its lock cannot be taken.
    """
    refuse_existing(path, force=force, made=made)  # before a lock is made beside it
    with locked(path) as lock:
        refuse_existing(path, force=force, made=made)  # another run may have written it meanwhile
        yield lock


@contextmanager
def new_file(path: Path, lock: Lock | None = None, *, synced: bool = True) -> Iterator[Path]:
    """A file that appears at ``path``, replacing what stood there, when the block ends without an error.

    Args:
        path: Where it shall stand.
        lock: What keeps other writers of it away; a lock of its own where it is not given.
        synced: Whether it is on disk when this returns, so that a power cut cannot take it away.

    Raises:
        LockedError: Somebody else is writing it.
        OutputError: It cannot be written; names the reason.
    """
    with _own(path, lock) as held:
        partial = path.with_name(held.partial().name)
        try:
            with explain_os_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                yield partial
                if synced:
                    sync(partial)
                partial.replace(path)
                if synced:
                    sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, lock: Lock | None = None, *, force: bool = False, made: str = "") -> Iterator[Path]:
    """A directory that appears at ``path`` when the block ends without an error, and not at all otherwise.

    Args:
        path: Where it shall stand.
        lock: What keeps other writers of it away; a lock of its own where it is not given.
        force: Replace what stands there. The old directory stays until the new one is whole and synced to disk; then
            the two are exchanged at once, or, where the system cannot, renamed so that `standing` finds one of them.
        made: See `refuse_existing`.

    Raises:
        LockedError: Somebody else is writing it.
        OutputError: It exists, or cannot be written; names the reason.
    """
    with _own(path, lock) as held:
        refuse_existing(path, force=force, made=made)
        partial = held.partial()
        try:
            with explain_os_errors(path):
                partial.mkdir()
                yield partial
                sync_tree(partial)
                refuse_existing(path, force=force, made=made)
                _put(partial, held)
                sync(path.parent)
        finally:
            remove(partial)


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


def sync(path: Path) -> None:
    """Have the system put a file's content, or the names in a directory, on disk.

    Raises:
        OSError: It could not: what was written may be lost.
    """
    if os.name == "nt":  # which opens no directory
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # some file systems sync no directories
            raise
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """`sync` every file and directory below a directory, and itself."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


def _own(path: Path, lock: Lock | None) -> AbstractContextManager[Lock]:
    return locked(path) if lock is None else nullcontext(lock)


def _put(new: Path, lock: Lock) -> None:
    """Rename a directory to the path of a lock, in place of what stands there."""
    path = lock.path
    if not os.path.lexists(path):
        try:
            if rename_to_new(new, path):
                return
        except FileExistsError:
            refuse_existing(path, force=False)
        new.rename(path)
    elif not exchange(new, path):
        path.rename(lock.replaced)
        try:
            new.rename(path)
        except OSError:
            lock.replaced.rename(path)
            raise
        remove(lock.replaced)
