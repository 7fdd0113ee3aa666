"""The lock of a bundle: for whoever replaces it, and for whoever changes a file in it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from naflex_deploy.core.errors import OutputError
from naflex_deploy.core.locks import locked
from naflex_deploy.core.manifest import FILE_NAME

_CLOSED = (errno.EACCES, errno.EROFS)


@contextmanager
def locked_bundle(path: Path) -> Iterator[None]:
    """Be the only one who changes files of a bundle.

    The lock lies beside the bundle, where those who replace it whole take it too. Where the folder above cannot be
    written, as above a volume that is mounted at the bundle itself, nobody can replace it, and a lock inside is enough.

    Raises:
        LockedError: Another process writes the bundle.
        OutputError: It is read-only.
    """
    bundle = path.resolve()
    with ExitStack() as held:
        try:
            held.enter_context(locked(bundle))
        except OutputError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _CLOSED:
                raise
            held.enter_context(locked(bundle / f"{FILE_NAME}.bundle"))
        yield
