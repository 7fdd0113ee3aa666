"""A Lance dataset, which LanceDB opens as a table: ``lancedb.connect(FOLDER).open_table("NAME")`` of NAME.lance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import CHUNK, Table
from naflex_deploy.runtime.results.writers.arrow import batches, key_of, parts, schema_of

VERSIONS = "_versions"
"""A folder that every dataset has."""


def write(path: Path, table: Table) -> None:
    """Write a table into a directory that is there."""
    import lance
    import pyarrow as pa

    schema = schema_of(table)
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches(table, schema)), str(path), mode="overwrite")


def read_key(path: Path) -> str:
    """The key of a dataset's provenance; empty where it has none."""
    import lance

    return key_of(lance.dataset(str(path)).schema)


def read(path: Path) -> Iterator[Part]:
    """The rows of a dataset."""
    import lance

    return parts(lance.dataset(str(path)).to_batches(batch_size=CHUNK))
