"""The columns of every output: npz, JSON lines, Parquet, Lance, what lies beside a FAISS index, and Ray's shards."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Literal

from naflex_deploy.runtime.results.table import Provenance, Row

SCHEMA = 2
"""Version of the table, which each output carries; raised when a column changes its name, its type or its meaning."""

VECTOR = "embedding"
"""The column of the vectors: [D] float32."""

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A property of a row.

    Attributes:
        name: The same in every format.
        kind: Text in UTF-8, a 64-bit integer or a 64-bit float. Any may be null, except ``id``.
        meaning: For the documentation.
        of_run: Whether it is the same for all rows of an output.
    """

    name: str
    kind: Literal["text", "integer", "number"]
    meaning: str
    of_run: bool = False


COLUMNS = (
    Column(
        "id", "integer", "number of the row, the same in every run: made of path, sha256, frame and tile, or of text"
    ),
    Column("path", "text", "the input, as it was given; bytes that are no UTF-8 are written as `\\xNN`"),
    Column("sha256", "text", "digest of the input's content"),
    Column("text", "text", "the text, for rows of `--text`, in which the other columns are null"),
    Column("frame", "integer", "page, slice or frame in the input, from 0"),
    Column("time", "number", "seconds at which a frame of a clip is shown"),
    Column("tile", "integer", "0 for the whole frame, else the number of a tile, from 1"),
    Column("tiles", "integer", "images that were made of the frame: 1, or its tiles and the whole frame"),
    Column("width", "integer", "of the frame in pixels, as decoded"),
    Column("height", "integer", "of the frame in pixels, as decoded"),
    Column("left", "number", "left edge of the image in pixels of the frame"),
    Column("top", "number", "top edge"),
    Column("right", "number", "right edge"),
    Column("bottom", "number", "bottom edge"),
    Column("aspect", "number", "width of a stored pixel over its height; sizes and boxes are in stored pixels"),
    Column("dpi", "number", "pixels of the frame per inch, where the input says so"),
    Column("grid_rows", "integer", "rows of patches"),
    Column("grid_columns", "integer", "columns of patches"),
    Column("label", "text", "best class of the frame, where the model has classes"),
    Column("score", "number", "its score"),
    Column("tokens", "text", "file of the frame's tokens, where `--tokens` asked for them"),
    Column("schema", "integer", f"version of this table: {SCHEMA}", of_run=True),
    Column("model", "text", "digest of the weights", of_run=True),
    Column("variant", "text", "variant of the bundle that ran", of_run=True),
    Column("preparation", "text", "how inputs were read, as JSON", of_run=True),
    Column("tool", "text", "name and version of this package", of_run=True),
    Column("key", "text", "digests of everything that decides the vectors, as JSON", of_run=True),
)


def of_row(row: Row) -> dict[str, Value]:
    """The properties of a row by column."""
    path = _utf8(row.path)
    if row.text:
        return dict.fromkeys(_OF_ROW) | {"id": _number(row.text), "text": _utf8(row.text)}
    left, top, right, bottom = row.box
    return {
        "id": _number(path, row.digest, str(row.frame), str(row.tile)),
        "path": path,
        "sha256": row.digest or None,
        "text": None,
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
        "aspect": row.aspect,
        "dpi": row.dpi,
        "grid_rows": row.grid_hw[0],
        "grid_columns": row.grid_hw[1],
        "label": row.label or None,
        "score": row.score if row.label else None,
        "tokens": row.tokens or None,
    }


def of_run(provenance: Provenance) -> dict[str, Value]:
    """The properties that all rows of an output share."""
    return {"schema": SCHEMA} | {name: value or None for name, value in asdict(provenance).items()}


_OF_ROW = [column.name for column in COLUMNS if not column.of_run]


def _number(*parts: str) -> int:
    """63 bits of a digest, so that they fit into signed integers."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8]) >> 1


def _utf8(text: str) -> str:
    """Text as UTF-8, which is all that most formats hold."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
