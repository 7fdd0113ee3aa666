"""Which files a command line means: files as given, directories by the images in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from naflex_deploy.core.errors import UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})


def expand(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file meant, in order; a directory gives its images, subdirectories included, sorted by path.

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
