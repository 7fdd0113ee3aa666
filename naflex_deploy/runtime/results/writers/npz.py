"""A NumPy archive: an array for every column, and ``embedding`` [N, D].

Columns that all rows share have a single value. What is not known is an empty text, -1 or NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy

from naflex_deploy.runtime.results.columns import COLUMNS, VECTOR, Column, Value, of_row, of_run
from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import Table

_TYPES = {"text": np.dtype(np.str_), "integer": np.dtype(np.int64), "number": np.dtype(np.float64)}
_UNKNOWN: dict[str, Value] = {"text": "", "integer": -1, "number": float("nan")}


def write(path: Path, table: Table) -> None:
    """Write a table. The vectors are streamed into the archive, as they may not fit into memory."""
    with ZipFile(path, "w", allowZip64=True) as archive:
        _write_vectors(archive, table)
        rows, shared = [of_row(row) for row in table.chosen()], of_run(table.provenance)
        for column in COLUMNS:
            found = [shared[column.name]] if column.of_run else [row[column.name] for row in rows]
            values = _array(column, found)[0] if column.of_run else _array(column, found)
            with archive.open(f"{column.name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asanyarray(values), allow_pickle=False)


def read_key(path: Path) -> str:
    """The key of a file's provenance; empty where it has none."""
    with np.load(path, allow_pickle=False) as arrays:
        return str(arrays["key"]) if "key" in arrays else ""


def read(path: Path) -> Iterator[Part]:
    """The rows of a file, all at once."""
    with np.load(path, allow_pickle=False) as arrays:
        columns = {name: array for name, array in arrays.items() if name != VECTOR}
        vectors = arrays[VECTOR]

    def row(index: int) -> dict[str, Any]:
        values = {name: (array[index] if array.ndim else array).item() for name, array in columns.items()}
        return {name: None if value in ("", -1) or value != value else value for name, value in values.items()}

    yield Part(vectors, row)


def _array(column: Column, values: list[Value]) -> np.ndarray:
    known = [_UNKNOWN[column.kind] if value is None else value for value in values]
    return np.array(known, _TYPES[column.kind])


def _write_vectors(archive: ZipFile, table: Table) -> None:
    shape = (len(table.order), table.vectors.shape[1])
    header = {"descr": npy.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with archive.open(f"{VECTOR}.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_1_0(stream, header)
        for _, vectors in table.chunks():
            stream.write(np.ascontiguousarray(vectors, np.float32).tobytes())
