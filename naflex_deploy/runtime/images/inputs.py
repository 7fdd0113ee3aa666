"""What callers mean by images: lists in Python; files, directories and patterns on a command line."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.images.boundary import as_input_error
from naflex_deploy.runtime.images.media.dicom.series import in_slice_order, is_dicom_file
from naflex_deploy.runtime.images.shards import read_parquet, read_tar
from naflex_deploy.runtime.images.source import Source, describe

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
DOCUMENTS = (".pdf", ".dcm", ".dicom")
CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
SUFFIXES = frozenset({*IMAGES, *DOCUMENTS, *CLIPS})
T = TypeVar("T")

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Input:
    """A source with a name, of which frames may have been seen to before.

    Attributes:
        name: In messages and results.
        source: See `decode`; or why there is none.
        done: Numbers of its frames that are not wanted again.
    """

    name: str
    source: Source | NaflexError
    done: frozenset[int] = field(default=frozenset(), repr=False)

    def digest(self) -> str:
        """sha256 of a file or of bytes; empty where they cannot be read, which reading them will explain."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        try:
            return sha256(self.source) if isinstance(self.source, Path) else ""
        except OSError:
            return ""


def require_list(images: Iterable[T]) -> Iterable[T]:
    """Images as they are, where they are several.

    One of them can be iterated over, too: text gives its letters, an open file its lines, an array its rows.

    Raises:
        UsageError: It is one image, or nothing that can be iterated over.
    """
    one = isinstance(images, str | bytes | bytearray | memoryview | Patches) or hasattr(images, "read")
    if one or (isinstance(images, np.ndarray) and images.ndim < 4) or not isinstance(images, Iterable):
        raise UsageError(
            f"expected a list of images, found {describe(images)} alone",
            hint="put it into a list: [image]; an array of several has the shape [N, H, W, C]",
        )
    return images


def expand(paths: Iterable[Path], left_out: Callable[[Path], None] = lambda path: None) -> Iterator[Path]:
    """Every file meant, in order: files as they are, the matches of patterns such as ``scans/**/*.pdf``, sorted.

    A directory gives its files of known suffixes and those below it, sorted, and DICOM files whatever their names, the
    slices of a series in the order of the body. Shards and tables are to be named.

    Args:
        paths: Files, directories and patterns.
        left_out: Called with each file of a directory that has no known suffix and is no DICOM file.

    Raises:
        UsageError: A path does not exist, a pattern matches nothing, or a directory holds no image.
    """
    for path in paths:
        if path.is_dir():
            found = []
            for file in sorted(filter(Path.is_file, path.rglob("*"))):
                if file.name.startswith("._"):
                    left_out(file)  # what macOS keeps of a file's attributes
                elif file.suffix.lower() in SUFFIXES or is_dicom_file(file):
                    found.append(file)
                else:
                    left_out(file)
            if not found:
                raise UsageError(
                    f"{path}: expected images, found none",
                    hint=f"looked for {' '.join(sorted(SUFFIXES))} in it and below",
                )
            yield from in_slice_order(found)
        elif path.exists():
            yield path
        elif glob.has_magic(str(path)):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            if not matches:
                raise UsageError(f"{path}: matches no file", hint="check the pattern")
            yield from expand(matches, left_out)
        else:
            raise UsageError(f"{path}: no such file or directory", hint="check the path")


def open_inputs(paths: Iterable[Path]) -> Iterator[Input]:
    """The inputs that files hold, in order: one each, or those of a tar shard or a Parquet table as it is read."""
    for path in paths:
        try:
            if path.name.lower().endswith(TARS):
                yield from (Input(name, source) for name, source in read_tar(path, SUFFIXES))
            elif path.suffix.lower() == ".parquet":
                yield from (Input(name, source) for name, source in read_parquet(path))
            else:
                yield Input(str(path), path)
        except Exception as error:
            yield Input(str(path), as_input_error(str(path), error))
