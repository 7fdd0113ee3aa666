"""Vectors in a file, read where they are wanted. Not mapped: a file that shrinks is an error then, not a signal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]


class Vectors(Protocol):
    """[N, D] float32 from which rows are taken: an array, or a `VectorFile`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __getitem__(self, rows: list[int], /) -> Float:
        """Those rows, [len(rows), D]."""


class VectorFile:
    """Rows of a file of float32 without a header.

    Args:
        path: Of the file.
        rows: Number of its rows.
        width: D.
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self._path = path
        self.shape = (rows, width)

    def __getitem__(self, rows: list[int]) -> Float:
        """The rows, [len(rows), D].

        Raises:
            OSError: The file is shorter than it was.
        """
        size = 4 * self.shape[1]
        parts = []
        with self._path.open("rb") as stream:
            for first, count in _runs(rows):
                stream.seek(first * size)
                content = stream.read(count * size)
                if len(content) != count * size:
                    raise OSError(f"{self._path} became shorter while it was read")
                parts.append(content)
        return np.frombuffer(b"".join(parts), np.float32).reshape(len(rows), self.shape[1])


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows that follow one another, as (first, count)."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield rows[start], place - start
            start = place
