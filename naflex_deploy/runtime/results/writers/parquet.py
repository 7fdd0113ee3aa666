"""A Parquet table: a column for every property, and the vectors as a fixed-size list of float32.

What is not known is null. Provenance is dictionary-encoded, so repeating it in every row costs next to nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from naflex_deploy.runtime.results.table import Row, Table

KEY = "naflex-deploy.key"


def write(path: Path, table: Table) -> None:
    """Write a table, a row group a chunk."""
    import pyarrow as pa
    from pyarrow import parquet

    origin = asdict(table.provenance)
    key = origin.pop("key")
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
            **dict.fromkeys(("aspect", "dpi"), real),
            **dict.fromkeys(("grid_rows", "grid_columns"), number),
            "label": name,
            "score": pa.float32(),
            "tokens": name,
            **dict.fromkeys(origin, name),
            "embedding": pa.list_(pa.float32(), width),
        },
        metadata={KEY: key},
    )
    with parquet.ParquetWriter(path, schema) as stream:
        for rows, vectors in table.chunks():
            columns = [_properties(row) | origin for row in rows]
            arrays = [pa.array([row[field.name] for row in columns], field.type) for field in list(schema)[:-1]]
            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            stream.write_batch(
                pa.record_batch([*arrays, pa.FixedSizeListArray.from_arrays(flat, width)], schema=schema)
            )


def read_key(path: Path) -> str:
    """The key of a file's provenance, from its metadata; empty where it has none."""
    from pyarrow import parquet

    return bytes((parquet.read_schema(path).metadata or {}).get(KEY.encode(), b"")).decode()


def _properties(row: Row) -> dict[str, Any]:
    left, top, right, bottom = row.box
    return {
        "path": _text(row.path),
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
        "aspect": row.aspect,
        "dpi": row.dpi,
        "grid_rows": row.grid_hw[0],
        "grid_columns": row.grid_hw[1],
        "label": row.label or None,
        "score": row.score if row.label else None,
        "tokens": row.tokens or None,
    }


def _text(path: str) -> str:
    """A path as UTF-8, which is all that Parquet holds: bytes of it that are none are written as ``\\xNN``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
