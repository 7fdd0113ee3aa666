"""JSON lines: an object an image."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from naflex_deploy.runtime.results.table import Table


def write(path: Path, table: Table) -> None:
    """Write a table."""
    origin = asdict(table.provenance)
    del origin["preparation"]  # repeated on every line, it would be longer than the rest of the line
    with path.open("w", encoding="utf-8") as stream:
        for rows, vectors in table.chunks():
            for row, vector in zip(rows, vectors, strict=True):
                stream.write(json.dumps(asdict(row) | origin | {"embedding": vector.tolist()}) + "\n")


def read_key(path: Path) -> str:
    """The key of a file's provenance; empty where it has no rows."""
    with path.open(encoding="utf-8") as stream:
        return str(json.loads(stream.readline() or "{}").get("key", ""))
