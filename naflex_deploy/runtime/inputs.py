"""What a command line means: files as given, directories by the images, documents and clips in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import sha256

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
DOCUMENTS = (".pdf", ".dcm", ".dicom")
CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
SUFFIXES = frozenset({*IMAGES, *DOCUMENTS, *CLIPS})


@dataclass(frozen=True)
class Input:
    """A source with a name, of which frames may have been seen to before.

    Attributes:
        name: In messages and results.
        source: Path of a file, or its content.
        done: Numbers of its frames that are not wanted again.
    """

    name: str
    source: Path | bytes
    done: frozenset[int] = field(default=frozenset(), repr=False)

    def digest(self) -> str:
        """sha256 of the content; empty where it cannot be read, which reading it will explain."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        try:
            return sha256(self.source)
        except OSError:
            return ""


def expand(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file meant, in order; a directory gives its files of known suffixes and those below it, sorted.

    A file named on its own is taken whatever its suffix.

    Raises:
        UsageError: A path does not exist, or a directory holds no image.
    """
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise UsageError(
                    f"{path}: expected images, found none",
                    hint=f"looked for {' '.join(sorted(SUFFIXES))} in it and below",
                )
            yield from found
        elif path.exists():
            yield path
        else:
            raise UsageError(f"{path}: no such file or directory", hint="check the path")


def open_inputs(paths: Iterable[Path]) -> Iterator[Input]:
    """The inputs that files hold, in order."""
    for path in paths:
        yield Input(str(path), path)
