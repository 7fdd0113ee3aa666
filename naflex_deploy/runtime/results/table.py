"""The table that ``embed`` writes: a row an image with its vector, and what made the vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from naflex_deploy.runtime.results.classes import Prediction
from naflex_deploy.runtime.results.result import Result
from naflex_deploy.runtime.results.vectors import Float, Vectors

CHUNK = 1024
"""Rows that are held at once."""


@dataclass(frozen=True)
class Row:
    """One image of the output: a frame of an input, or a tile of it; or a text.

    Attributes:
        path: Of the input, as given.
        digest: sha256 of its content.
        frame, last, tile, tiles, size, box, dpi, time, grid_hw, aspect: See `Result`.
        label, score: The best class of the frame, where the model has a classifier.
        tokens: File of the frame's tokens, where they were asked for.
        text: What was embedded instead of an image.
    """

    path: str
    digest: str
    frame: int
    last: bool
    tile: int
    tiles: int
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    dpi: float | None
    time: float | None
    grid_hw: tuple[int, int]
    label: str = ""
    score: float = 0.0
    tokens: str = ""
    aspect: float = 1.0
    text: str = ""

    @classmethod
    def of_text(cls, text: str) -> Row:
        return cls("", "", 0, True, 0, 1, (0, 0), (0, 0, 0, 0), None, None, (0, 0), text=text)

    @classmethod
    def of(cls, result: Result, digest: str, best: Prediction | None, tokens: str) -> Row:
        return cls(
            path=result.name,
            digest=digest,
            frame=result.frame,
            last=result.last,
            tile=result.tile,
            tiles=result.tiles,
            size=result.size,
            box=result.box,
            dpi=result.dpi,
            time=result.time,
            grid_hw=result.grid_hw,
            label=best.name if best else "",
            score=best.score if best else 0.0,
            tokens=tokens,
            aspect=result.aspect,
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Row:
        """The row of an object of JSON, which has lists for tuples.

        Raises:
            TypeError: A property is missing, or unknown.
        """
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**found)


@dataclass(frozen=True)
class Provenance:
    """What made the vectors of a file.

    Attributes:
        model: Digest of the weights.
        variant: Name of the bundle's variant.
        preparation: Sections image and video of the profile, as JSON.
        tool: Name and version of this package.
        key: Digests of everything that decides the vectors, and of the inputs, as JSON.
    """

    model: str
    variant: str
    preparation: str
    tool: str
    key: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows and their vectors, in the order in which they are to be written.

    Attributes:
        rows: All rows that there are.
        vectors: [len(rows), D] float32.
        order: Indices of the rows to be written, in the order of the file.
    """

    rows: Sequence[Row]
    vectors: Vectors
    order: Sequence[int]
    provenance: Provenance

    def chosen(self) -> list[Row]:
        return [self.rows[index] for index in self.order]

    def chunks(self) -> Iterator[tuple[list[Row], Float]]:
        """Some rows at a time."""
        for start in range(0, len(self.order), CHUNK):
            part = list(self.order[start : start + CHUNK])
            yield [self.rows[index] for index in part], self.vectors[part]
