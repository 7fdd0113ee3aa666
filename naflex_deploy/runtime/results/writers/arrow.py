"""A table in Arrow, for Parquet and Lance: the columns, and the vectors as a fixed-size list of float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from naflex_deploy.runtime.results.columns import COLUMNS, SCHEMA, VECTOR, of_row, of_run
from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import Table

KEY, VERSION = b"naflex-deploy.key", b"naflex-deploy.schema"
"""Names in the metadata of a schema, which also a table without rows has."""


def schema_of(table: Table) -> Any:
    """The Arrow schema of a table."""
    import pyarrow as pa

    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    fields = {column.name: types[column.kind] for column in COLUMNS}
    vectors = pa.list_(pa.float32(), table.vectors.shape[1])
    return pa.schema(fields | {VECTOR: vectors}, metadata={KEY: table.provenance.key, VERSION: str(SCHEMA)})


def batches(table: Table, schema: Any) -> Iterator[Any]:
    """The rows as record batches, one a chunk."""
    import pyarrow as pa

    shared = of_run(table.provenance)
    for rows, vectors in table.chunks():
        values = [of_row(row) | shared for row in rows]
        arrays = [pa.array([row[column.name] for row in values], schema.field(column.name).type) for column in COLUMNS]
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        embedding = pa.FixedSizeListArray.from_arrays(flat, table.vectors.shape[1])
        yield pa.record_batch([*arrays, embedding], schema=schema)


def key_of(schema: Any) -> str:
    """The key of the provenance in a schema; empty where it has none."""
    return bytes((schema.metadata or {}).get(KEY, b"")).decode()


def parts(found: Iterable[Any]) -> Iterator[Part]:
    """Record batches as they are read back."""
    for batch in found:
        vectors = batch.column(batch.schema.get_field_index(VECTOR))
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        yield Part(flat.reshape(len(batch), -1), partial(_row, batch.drop_columns([VECTOR])))


def _row(batch: Any, index: int) -> dict[str, Any]:
    return dict(batch.slice(index, 1).to_pylist()[0])
