"""Tar shards of images, read from front to back."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from naflex_deploy.core.errors import ImageError

Entry = tuple[str, bytes | ImageError]
"""Name and content of an image, or why there is none."""


def read_tar(
    path: Path, suffixes: frozenset[str], left_out: Callable[[Path], None] = lambda path: None
) -> Iterator[Entry]:
    """The images of a tar archive, compressed or not, under ``ARCHIVE/MEMBER``.

    Args:
        path: Of the archive.
        suffixes: Of members that are images; a hard link counts as the member that it names.
        left_out: Called with every other file, under its name as above.
    """
    empty = True
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isdir():
                    continue
                readable = member.isfile() or member.islnk()
                attributes = name.name.startswith("._") or "__MACOSX" in name.parts
                if not readable or attributes or name.suffix.lower() not in suffixes:
                    left_out(path / member.name)
                    continue
                empty = False
                if member.islnk():
                    yield f"{path}/{member.name}", _linked(path, member)
                    continue
                content = archive.extractfile(member)
                yield f"{path}/{member.name}", content.read() if content else b""
    except Exception as error:  # the module raises many kinds, TypeError among them
        reason = " ".join(str(error).split())
        yield str(path), ImageError(f"{path}: damaged or truncated tar archive: {reason}", hint="replace the file")
        return
    if empty:
        yield str(path), ImageError(f"{path}: expected images, found a tar archive without any", hint="leave it out")


def _linked(path: Path, link: tarfile.TarInfo) -> bytes | ImageError:
    """The content of the member that a hard link names, for which the archive is read once more: links are rare."""
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.name == link.linkname and member.isfile():
                content = archive.extractfile(member)
                return content.read() if content else b""
    return ImageError(f"{path}/{link.name}: links to {link.linkname}, which is not there", hint="write it as a file")
