"""JSON lines: an object a row, which holds its columns and its vector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from naflex_deploy.runtime.results.columns import VECTOR, of_row, of_run
from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import CHUNK, Table


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


def read(path: Path) -> Iterator[Part]:
    """The rows of a file."""
    for rows in read_rows(path):
        yield Part(np.array([row.pop(VECTOR) for row in rows], np.float32), rows.__getitem__)


def read_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The objects of a file, some at a time."""
    with path.open(encoding="utf-8") as stream:
        while lines := list(islice(stream, CHUNK)):
            yield [dict[str, Any](json.loads(line)) for line in lines]
