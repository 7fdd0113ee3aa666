"""JSON lines: an object a row, which holds its columns and its vector."""

from __future__ import annotations

import json
from pathlib import Path

from naflex_deploy.runtime.results.columns import VECTOR, of_row, of_run
from naflex_deploy.runtime.results.table import Table


def write(path: Path, table: Table, *, vectors: bool = True) -> None:
    """Write a table, with its vectors or without them."""
    shared = of_run(table.provenance)
    with path.open("w", encoding="utf-8") as stream:
        for rows, chunk in table.chunks():
            for row, vector in zip(rows, chunk, strict=True):
                line = of_row(row) | shared | ({VECTOR: vector.tolist()} if vectors else {})
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_key(path: Path) -> str:
    """The key of a file's provenance; empty where it has no rows."""
    with path.open(encoding="utf-8") as stream:
        return str(json.loads(stream.readline() or "{}").get("key") or "")
