"""What ``embed`` writes: vectors and where each came from, as NumPy archive, JSON lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.runtime.results.classes import Prediction
from naflex_deploy.runtime.results.result import Result

CHUNK = 1024
"""Rows that are held at once."""


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
class Provenance:
    """What made the vectors of a file.

    Attributes:
        model: Digest of the weights.
        variant: Of the bundle.
        preparation: Sections image and video of the profile, as JSON.
        tool: Name and version.
    """

    model: str
    variant: str
    preparation: str
    tool: str


@dataclass(frozen=True, eq=False)
class Table:
    """Rows and their vectors, in the order in which they are to be written.

    Attributes:
        rows: All that there are.
        vectors: [len(rows), D] float32, mapped from disk.
        order: Which of them, and in which order.
    """

    rows: Sequence[Row]
    vectors: npt.NDArray[np.float32]
    order: Sequence[int]
    provenance: Provenance

    def chosen(self) -> list[Row]:
        return [self.rows[index] for index in self.order]

    def chunks(self) -> Iterator[tuple[list[Row], npt.NDArray[np.float32]]]:
        """Some rows at a time."""
        for start in range(0, len(self.order), CHUNK):
            part = list(self.order[start : start + CHUNK])
            yield [self.rows[index] for index in part], self.vectors[part]


def writer(path: Path) -> Callable[[Path, Table], None]:
    """What writes the format that a file's suffix names.

    Raises:
        UsageError: It names none.
        MissingExtraError: The format needs a package that is not installed.
    """
    if path.suffix == ".parquet":
        with needs_extra("parquet"):
            import pyarrow.parquet  # noqa: F401
    try:
        return _WRITERS[path.suffix]
    except KeyError:
        expected = f"{', '.join(list(_WRITERS)[:-1])} or {list(_WRITERS)[-1]}"
        raise UsageError(f"-o {path}: expected a name that ends in {expected}", hint="for example out.npz") from None


def _write_npz(path: Path, table: Table) -> None:
    """Embeddings go through a file beside it, as they may not fit into memory."""
    rows, width = table.chosen(), table.vectors.shape[1]
    ordered = path.with_name(f"{path.name}.npy")
    try:
        vectors = np.zeros((0, width), np.float32)
        if rows:
            vectors = np.lib.format.open_memmap(ordered, mode="w+", dtype=np.float32, shape=(len(rows), width))
            for number, (_, part) in enumerate(table.chunks()):
                vectors[number * CHUNK : number * CHUNK + len(part)] = part
        with path.open("wb") as stream:
            np.savez(
                stream,
                embeddings=vectors,
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
                tokens=np.array([row.tokens for row in rows], dtype=np.str_),
                model=np.array(table.provenance.model),
                variant=np.array(table.provenance.variant),
                preparation=np.array(table.provenance.preparation),
                tool=np.array(table.provenance.tool),
            )
    finally:
        ordered.unlink(missing_ok=True)


def _write_jsonl(path: Path, table: Table) -> None:
    origin = asdict(table.provenance)
    del origin["preparation"]  # on every line, it would be longer than the rest
    with path.open("w", encoding="utf-8") as stream:
        for rows, vectors in table.chunks():
            for row, vector in zip(rows, vectors, strict=True):
                stream.write(json.dumps(asdict(row) | origin | {"embedding": vector.tolist()}) + "\n")


def _write_parquet(path: Path, table: Table) -> None:
    """A column a property; what is not known is null. Provenance is dictionary-encoded, so it costs next to nothing."""
    import pyarrow as pa
    from pyarrow import parquet

    width = table.vectors.shape[1]
    name, number, real = pa.string(), pa.int32(), pa.float64()
    schema = pa.schema(
        {
            "path": name,
            "sha256": name,
            "frame": number,
            "time": real,
            "tile": number,
            "tiles": number,
            **dict.fromkeys(("width", "height"), number),
            **dict.fromkeys(("left", "top", "right", "bottom"), real),
            "dpi": real,
            **dict.fromkeys(("grid_rows", "grid_columns"), number),
            "label": name,
            "score": pa.float32(),
            "tokens": name,
            **dict.fromkeys(asdict(table.provenance), name),
            "embedding": pa.list_(pa.float32(), width),
        }
    )
    with parquet.ParquetWriter(path, schema) as stream:
        for rows, vectors in table.chunks():
            columns = [_properties(row) | asdict(table.provenance) for row in rows]
            arrays = [pa.array([row[field.name] for row in columns], field.type) for field in list(schema)[:-1]]
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            stream.write_batch(
                pa.record_batch([*arrays, pa.FixedSizeListArray.from_arrays(flat, width)], schema=schema)
            )


def _properties(row: Row) -> dict[str, Any]:
    left, top, right, bottom = row.box
    return {
        "path": row.path,
        "sha256": row.digest,
        "frame": row.frame,
        "time": row.time,
        "tile": row.tile,
        "tiles": row.tiles,
        "width": row.size[0],
        "height": row.size[1],
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "dpi": row.dpi,
        "grid_rows": row.grid_hw[0],
        "grid_columns": row.grid_hw[1],
        "label": row.label or None,
        "score": row.score if row.label else None,
        "tokens": row.tokens or None,
    }


_WRITERS: dict[str, Callable[[Path, Table], None]] = {
    ".npz": _write_npz,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
