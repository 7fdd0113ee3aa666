"""Embedding many files into one: results go to a journal as packs finish, and to their final file at the end.

The journal is a directory beside the output. It survives a kill, so that the next run goes on where this one
stopped; memory holds a line a row, never the vectors. The final file appears when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import explain_os_errors, new_file
from naflex_deploy.runtime.engine import Prediction
from naflex_deploy.runtime.result import Result

FORMATS = (".npz", ".jsonl")
CHUNK = 1024


@dataclass(frozen=True)
class Row:
    """One image of the output: a frame of an input, or a tile of it.

    Attributes:
        path: Of the input, as given.
        digest: sha256 of its content.
        frame, last, tile, tiles, size, box, dpi, time, grid_hw: See `Result`.
        label, score: The best class of the frame, where the model has a classifier.
        tokens: File of the frame's tokens, where they were asked for.
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
        )

    @classmethod
    def parse(cls, line: bytes) -> Row:
        """From a line of JSON, which has lists for tuples."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(line).items()}
        return cls(**cast(dict[str, Any], values))


@dataclass(frozen=True)
class Done:
    """What of an input is recorded.

    Attributes:
        frames: Numbers of those of which every image is.
        all: Whether these are all.
    """

    frames: frozenset[int] = frozenset()
    all: bool = False


class Journal:
    """An append-only record of rows and their vectors.

    Args:
        output: The final file; its suffix is one of `FORMATS`.
        width: D, length of a vector.
        key: What the vectors depend on besides the images; a journal of another key is not resumed.

    Raises:
        UsageError: The suffix is no format.
    """

    def __init__(self, output: Path, width: int, key: str) -> None:
        if output.suffix not in FORMATS:
            raise UsageError(
                f"-o {output}: expected a name that ends in {' or '.join(FORMATS)}", hint="for example out.npz"
            )
        self._output = output
        self._width = width
        self._key = key
        self._folder = output.with_name(f".{output.name}.journal")
        self.rows: list[Row] = []

    @contextmanager
    def open(self, *, resume: bool) -> Iterator[Journal]:
        """Append to the journal; a new one, or with ``resume`` the one that an earlier run left.

        Raises:
            UsageError: The earlier run used another bundle.
            OutputError: The journal cannot be written.
        """
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        with explain_os_errors(self._output):
            self._folder.mkdir(parents=True, exist_ok=True)
            self.rows = self._recover()
            with (
                self._lines.open("a", encoding="utf-8") as self._row_stream,
                self._vectors.open("ab") as self._vector_stream,
            ):
                yield self

    def append(self, row: Row, vector: npt.NDArray[np.float32]) -> None:
        """Record one image. The vector first: a line vouches for the vector before it."""
        self._vector_stream.write(vector.astype(np.float32).tobytes())
        self._vector_stream.flush()
        self._row_stream.write(json.dumps(asdict(row)) + "\n")
        self._row_stream.flush()
        self.rows.append(row)

    def done(self) -> dict[tuple[str, str], Done]:
        """What of each input, by path and digest, is recorded."""
        tiles: dict[tuple[str, str, int], set[int]] = {}
        ends: dict[tuple[str, str], int] = {}
        for row in self.rows:
            tiles.setdefault((row.path, row.digest, row.frame), set()).add(row.tile)
            if row.last:
                # A run that was resumed in the middle took another frame for the last one.
                ends[row.path, row.digest] = max(row.frame, ends.get((row.path, row.digest), 0))
        wanted = {(row.path, row.digest, row.frame): row.tiles for row in self.rows}
        frames: dict[tuple[str, str], set[int]] = {}
        for (path, digest, frame), found in tiles.items():
            if len(found) == wanted[path, digest, frame]:
                frames.setdefault((path, digest), set()).add(frame)
        return {
            key: Done(frozenset(numbers), key in ends and numbers >= set(range(ends[key] + 1)))
            for key, numbers in frames.items()
        }

    def finish(self, order: dict[tuple[str, str], int]) -> int:
        """Write the final file and remove the journal.

        Args:
            order: Place of each input, by path and digest; rows of others are left out.

        Returns:
            Rows written.
        """
        latest: dict[tuple[int, int, int], int] = {}
        for index, row in enumerate(self.rows):
            if (row.path, row.digest) in order:
                latest[order[row.path, row.digest], row.frame, row.tile] = index
        chosen = [latest[key] for key in sorted(latest)]
        with new_file(self._output) as partial:
            write = self._write_npz if self._output.suffix == ".npz" else self._write_jsonl
            write(partial, chosen)
        shutil.rmtree(self._folder, ignore_errors=True)
        return len(chosen)

    @property
    def _lines(self) -> Path:
        return self._folder / "rows.jsonl"

    @property
    def _vectors(self) -> Path:
        return self._folder / "vectors.f32"

    def _recover(self) -> list[Row]:
        """Rows that an earlier run left; a torn end is cut off both files."""
        header = self._folder / "key"
        if not header.exists():
            header.write_text(self._key, encoding="utf-8")
        elif header.read_text(encoding="utf-8") != self._key:
            raise UsageError(
                f"{self._folder} was begun with another bundle or variant", hint="run without --resume to begin anew"
            )
        if not self._lines.exists():
            return []
        rows: list[Row] = []
        kept = 0
        available = self._vectors.stat().st_size // (4 * self._width)
        for line in self._lines.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or len(rows) == available:
                break
            rows.append(Row.parse(line))
            kept += len(line)
        _truncate(self._lines, kept)
        _truncate(self._vectors, 4 * self._width * len(rows))
        return rows

    def _read_vectors(self) -> npt.NDArray[np.float32]:
        if not self.rows:
            return np.zeros((0, self._width), np.float32)
        return np.memmap(self._vectors, np.float32, "r", shape=(len(self.rows), self._width))

    def _write_jsonl(self, path: Path, chosen: list[int]) -> None:
        vectors = self._read_vectors()
        with path.open("w", encoding="utf-8") as stream:
            for index in chosen:
                row = asdict(self.rows[index]) | {"embedding": vectors[index].tolist()}
                stream.write(json.dumps(row) + "\n")

    def _write_npz(self, path: Path, chosen: list[int]) -> None:
        vectors = self._read_vectors()
        ordered = self._folder / "ordered.npy"
        if chosen:
            target = np.lib.format.open_memmap(ordered, mode="w+", dtype=np.float32, shape=(len(chosen), self._width))
            for start in range(0, len(chosen), CHUNK):
                target[start : start + CHUNK] = vectors[chosen[start : start + CHUNK]]
            target.flush()
        else:
            target = vectors  # type: ignore[assignment]
        rows = [self.rows[index] for index in chosen]
        with path.open("wb") as stream:
            np.savez(
                stream,
                embeddings=target,
                paths=np.array([row.path for row in rows], dtype=np.str_),
                digests=np.array([row.digest for row in rows], dtype=np.str_),
                frames=np.array([row.frame for row in rows], np.int32),
                tiles=np.array([row.tile for row in rows], np.int32),
                boxes=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
                times=np.array([row.time for row in rows], np.float64),
                dpis=np.array([row.dpi for row in rows], np.float64),
                sizes=np.array([row.size for row in rows], np.int32).reshape(-1, 2),
                grids=np.array([row.grid_hw for row in rows], np.int32).reshape(-1, 2),
                labels=np.array([row.label for row in rows], dtype=np.str_),
                scores=np.array([row.score for row in rows], np.float32),
            )


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(size)
