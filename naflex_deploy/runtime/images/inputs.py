"""What callers mean by images: lists in Python; files, directories and patterns on a command line."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.profile import LimitsSection
from naflex_deploy.runtime.images.boundary import as_input_error
from naflex_deploy.runtime.images.media.dicom.series import in_slice_order, is_dicom_file
from naflex_deploy.runtime.images.media.kinds import Kind
from naflex_deploy.runtime.images.media.recording import is_bag_folder
from naflex_deploy.runtime.images.shards import read_tar
from naflex_deploy.runtime.images.source import Source, describe, is_tensor
from naflex_deploy.runtime.images.tables import read_guarded, split_column

_IMAGES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .tif .tiff .dng .bmp .gif .avif .heic .heif .jp2 .j2k .jpf .jpx "
    ".pnm .ppm .pgm .pbm"
)
_DOCUMENTS = ".pdf .dcm .dicom .ima .nii .nii.gz .svs .ndpi .mrxs .scn"
_CLIPS = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .h264 .hevc .mjpeg .mjpg .mcap .bag"
SUFFIXES = frozenset(f"{_IMAGES} {_DOCUMENTS} {_CLIPS}".split())
T = TypeVar("T")

LIMITS = LimitsSection()
"""Where a profile changes none."""

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Input:
    """A source with a name, of which frames may have been seen to before.

    Attributes:
        name: In messages and results.
        source: See `decode`; several of them are the frames of one input; or why there is none.
        done: Numbers of its frames that are not wanted again.
        kind: What it is, where that is decided already.
        tame: Whether its reader takes a bounded time, where that is decided.
    """

    name: str
    source: Source | NaflexError
    done: frozenset[int] = field(default=frozenset(), repr=False)
    kind: Kind | None = None
    tame: bool = False

    def digest(self) -> str:
        """sha256 of a file or of bytes; empty where they cannot be read, which reading them will explain.

        Of several sources, and of the files of a folder, it is the sha256 of the digests of all.
        """
        try:
            return _digest(self.source)
        except OSError:
            return ""


def _digest(source: object) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, Path):
        if not source.is_dir():
            return sha256(source)
        source = tuple(sorted(filter(Path.is_file, source.rglob("*"))))
    return hashlib.sha256("".join(map(_digest, source)).encode()).hexdigest() if isinstance(source, tuple) else ""


def is_one(images: object) -> bool:
    """Whether it is one image instead of several.

    One of them can be iterated over, too: text gives its letters, an open file its lines, an array its rows.
    """
    if isinstance(images, np.ndarray) or is_tensor(images):
        return images.ndim < 4
    known = str | Path | bytes | bytearray | memoryview | Patches | Image.Image | Input
    return isinstance(images, known) or hasattr(images, "read")


def as_list(images: object) -> tuple[Iterable[Any], bool]:
    """One image or several as several, and whether it is one.

    Raises:
        UsageError: It is neither.
    """
    if is_one(images):
        return [images], True
    if isinstance(images, Iterable):
        return images, False
    raise UsageError(
        f"expected an image or a list of images, found {describe(images)}",
        hint="pass a path, bytes, a Pillow image, an array or a torch tensor, or a list of them",
    )


def require_list(images: Iterable[T]) -> Iterable[T]:
    """Images as they are, where they are several.

    Raises:
        UsageError: It is one image, or nothing that can be iterated over.
    """
    if is_one(images) or not isinstance(images, Iterable):
        raise UsageError(
            f"expected a list of images, found {describe(images)} alone",
            hint="put it into a list: [image]; an array of several has the shape [N, H, W, C]",
        )
    return images


def expand(paths: Iterable[Path], left_out: Callable[[Path], None] = lambda path: None) -> Iterator[Path]:
    """Every file meant, in order: files as they are, the matches of patterns such as ``scans/**/*.pdf``, sorted.

    Braces spell names out: ``shard-{000..099}.tar``, ``{left,right}.png``. ``table.parquet::left`` names a column.

    A directory gives its files of known suffixes and those below it, sorted, and DICOM files whatever their names, the
    slices of a series in the order of the body; the folder of a ROS 2 bag is one input. Shards and tables are to be
    named.

    Args:
        paths: Files, directories and patterns.
        left_out: Called with each file of a directory that has no known suffix and is no DICOM file, or has no pixels.

    Raises:
        UsageError: A path does not exist, a pattern matches nothing, or a directory holds no image.
    """
    for path in paths:
        if path.is_dir():
            found = _found_in(path, left_out)
            if not found:
                raise UsageError(
                    f"{path}: expected images, found none",
                    hint=f"looked for {' '.join(sorted(SUFFIXES))} in it and below",
                )
            yield from in_slice_order(found, LIMITS, left_out)
        elif path.exists() or split_column(path)[0].exists():
            yield path
        elif (spelled := _without_braces(str(path))) != [str(path)]:
            yield from expand(map(Path, spelled), left_out)
        elif glob.has_magic(str(path)):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            if not matches:
                raise UsageError(f"{path}: matches no file", hint="check the pattern")
            yield from expand(matches, left_out)
        else:
            raise UsageError(f"{path}: no such file or directory", hint="check the path")


def _found_in(folder: Path, left_out: Callable[[Path], None]) -> list[Path]:
    """The inputs in a folder and below it, sorted; the folder of a ROS 2 bag is one input."""
    files = sorted(filter(Path.is_file, folder.rglob("*")))
    bags = {file.parent for file in files if file.name == "metadata.yaml" and is_bag_folder(file.parent)}
    found: list[Path] = []
    for file in files:
        bag = next((parent for parent in file.parents if parent in bags), None)
        if bag is not None:
            found += [bag] * (bag not in found)
        elif not file.name.startswith("._") and (_has_known_suffix(file.name) or is_dicom_file(file)):
            found.append(file)
        else:
            left_out(file)  # names that begin so hold what macOS keeps of a file's attributes
    return found


def _has_known_suffix(name: str) -> bool:
    return name.lower().endswith(tuple(SUFFIXES))


def _without_braces(pattern: str) -> list[str]:
    """Every name that braces spell, as a shell has them: a list, or a range of numbers as wide as its first."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span is not None:
        first, last = int(span[1]), int(span[2])
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        words = [f"{number:0{len(span[1])}}" for number in numbers]
    elif "," in found[1]:
        words = found[1].split(",")
    else:
        return [pattern]
    return [
        name for word in words for name in _without_braces(f"{pattern[: found.start()]}{word}{pattern[found.end() :]}")
    ]


def number_of_inputs(paths: Sequence[Path]) -> int | None:
    """How many inputs `open_inputs` gives; ``None`` where a shard or a table has to be read to know."""
    for path in paths:
        if path.name.lower().endswith(TARS) or split_column(path)[0].suffix.lower() == ".parquet":
            return None
    return len(paths)


def open_inputs(
    paths: Iterable[Path],
    left_out: Callable[[Path], None] = lambda path: None,
    limits: LimitsSection = LIMITS,
) -> Iterator[Input]:
    """The inputs that files hold, in order: one each, or those of a tar shard or a Parquet table as it is read.

    Args:
        paths: As `expand` gives them.
        left_out: Called with each file of a shard that is no image.
        limits: Of the profile.
    """
    for path in paths:
        try:
            table, column = split_column(path)
            if path.name.lower().endswith(TARS):
                yield from (Input(name, source) for name, source in read_tar(path, SUFFIXES, left_out, limits.member))
            elif table.suffix.lower() == ".parquet":
                yield from (Input(name, cell) for name, cell in read_guarded(table, column, limits))
            else:
                yield Input(str(path), path)
        except Exception as error:
            yield Input(str(path), as_input_error(str(path), error))
