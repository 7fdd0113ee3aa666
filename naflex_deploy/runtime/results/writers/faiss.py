"""A FAISS index of vectors of length 1, whose inner products are cosines, with the ids of the rows.

The rows themselves lie beside it, in the same file name with ``.jsonl``: an index holds nothing but ids and vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.results.columns import of_row
from naflex_deploy.runtime.results.embeddings import unit
from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import Table
from naflex_deploy.runtime.results.writers import jsonl

BESIDE = ".jsonl"


def write(path: Path, table: Table) -> None:
    """Write an exact index, which is held in memory meanwhile."""
    import faiss

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(table.vectors.shape[1]))
    for rows, vectors in table.chunks():
        index.add_with_ids(unit(vectors), np.array([of_row(row)["id"] for row in rows], np.int64))
    faiss.write_index(index, str(path))


write_rows = partial(jsonl.write, vectors=False)


def read_key(path: Path) -> str:
    """The key of an index, from the rows beside it; empty where there are none."""
    return jsonl.read_key(path.with_name(path.name + BESIDE))


def read(path: Path) -> Iterator[Part]:
    """The rows of an index with those beside it, in the order in which they were added.

    Raises:
        UsageError: The rows beside it are those of another index.
    """
    import faiss

    index = faiss.read_index(str(path))
    ids, start = faiss.vector_to_array(index.id_map), 0
    for rows in jsonl.read_rows(path.with_name(path.name + BESIDE)):
        end = start + len(rows)
        if [row["id"] for row in rows] != ids[start:end].tolist():
            raise UsageError(f"{path}{BESIDE} has the rows of another index", hint="embed again, or copy both files")
        yield Part(index.index.reconstruct_n(start, len(rows)), rows.__getitem__)
        start = end
