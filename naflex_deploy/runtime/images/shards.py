"""Tar shards of images, read from front to back."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import LimitsSection

Entry = tuple[str, bytes | ImageError]
"""Name and content of an image, or why there is none."""


HEADER = 1 << 20
"""Largest header of a member that states long names or other properties, in bytes."""


class _Member(tarfile.TarInfo):
    """A member whose headers are not read whole, whatever size they claim."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in (*extended, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) and self.size > HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def read_tar(
    path: Path,
    suffixes: frozenset[str],
    left_out: Callable[[Path], None] = lambda path: None,
    most: int = LimitsSection().member,
) -> Iterator[Entry]:
    """The images of a tar archive, compressed or not, under ``ARCHIVE/MEMBER``.

    Args:
        path: Of the archive.
        suffixes: Of members that are images; a hard link counts as the member that it names. Links come last, as the
            archive is read once more for them.
        left_out: Called with every other file, under its name as above.
        most: Largest size of a member in bytes; a larger one is an error, and is not read.
    """
    empty = True
    links: dict[str, list[str]] = {}
    try:
        for archive, member in _members(path):
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
                links.setdefault(member.linkname, []).append(member.name)
            else:
                yield f"{path}/{member.name}", _content(archive, member, f"{path}/{member.name}", most)
        if links:
            yield from _linked(path, links, most)
    except Exception as error:  # the module raises many kinds, TypeError among them
        reason = " ".join(str(error).split())
        yield str(path), ImageError(f"{path}: damaged or truncated tar archive: {reason}", hint="replace the file")
        return
    if empty:
        yield str(path), ImageError(f"{path}: expected images, found a tar archive without any", hint="leave it out")


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of an archive, each with the archive, which stands at the member's content.

    Raises:
        tarfile.ReadError: The archive is damaged, or ends within a member.
    """
    with tarfile.open(path, "r|*", tarinfo=_Member) as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them for random access
            yield archive, member
            _skip(archive)


def _skip(archive: tarfile.TarFile) -> None:
    """Read on to the next header. tarfile would go on behind the end, for as long as the size of a member says."""
    stream: IO[bytes] = archive.fileobj  # type: ignore[assignment]
    while (rest := archive.offset - stream.tell()) > 0:
        if not stream.read(min(rest, HEADER)):
            raise tarfile.ReadError(f"it ends {rest} bytes before the end of a member")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, most: int) -> bytes | ImageError:
    if member.size > most:
        return too_large(name, member.size, most)
    content = archive.extractfile(member)
    return content.read() if content else b""


def too_large(name: str, size: int, most: int) -> ImageError:
    """The error of a part of a shard or a table that would take too much memory."""
    return ImageError(
        f"{name}: expected at most {most} bytes, found {size}",
        hint="store it as a file of its own, or raise limits.member in the profile",
    )


def _linked(path: Path, links: dict[str, list[str]], most: int) -> Iterator[Entry]:
    """The contents of the members that hard links name.

    Args:
        path: Of the archive.
        links: Names of links by the member that they name.
        most: Largest size of a member in bytes.
    """
    for archive, member in _members(path):
        if member.isfile() and member.name in links:
            content = b"" if member.size > most else _content(archive, member, "", most)
            for link in links.pop(member.name):
                name = f"{path}/{link}"
                yield name, content if member.size <= most else too_large(name, member.size, most)
    for target, missing in links.items():
        for name in missing:
            what = f"{path}/{name}: links to {target}, which is not there"
            yield f"{path}/{name}", ImageError(what, hint="write it as a file")
