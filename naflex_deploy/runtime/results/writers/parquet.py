"""Parquet: one table, or a directory of tables of bounded size, which databases read side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import CHUNK, Table
from naflex_deploy.runtime.results.writers.arrow import batches, key_of, parts, schema_of

PARTS = "part-*.parquet"

PART = 64 * CHUNK
"""Rows of a part; a multiple of the chunks in which rows are written."""


def write(path: Path, table: Table) -> None:
    """Write a table, a row group a chunk."""
    from pyarrow import parquet

    schema = schema_of(table)
    with parquet.ParquetWriter(path, schema) as stream:
        for batch in batches(table, schema):
            stream.write_batch(batch)


def write_parts(path: Path, table: Table) -> None:
    """Write ``part-00000.parquet`` and so on into a directory that is there."""
    for number, start in enumerate(range(0, max(1, len(table.order)), PART)):
        part = Table(table.rows, table.vectors, table.order[start : start + PART], table.provenance)
        write(path / f"part-{number:05}.parquet", part)


def read_key(path: Path) -> str:
    """The key of a file's provenance, from its metadata; empty where it has none."""
    from pyarrow import parquet

    return key_of(parquet.read_schema(path))


def read_key_of_parts(path: Path) -> str:
    """The key of a directory of parts."""
    return read_key(path / "part-00000.parquet")


def read(path: Path) -> Iterator[Part]:
    """The rows of a file."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as stream:
        yield from parts(stream.iter_batches(CHUNK))


def read_parts(path: Path) -> Iterator[Part]:
    """The rows of a directory of parts."""
    for part in sorted(path.glob(PARTS)):
        yield from read(part)
