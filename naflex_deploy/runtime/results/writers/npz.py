"""A NumPy archive: ``embeddings`` [N, D], and an array for every property of the rows."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy

from naflex_deploy.runtime.results.table import Table


def write(path: Path, table: Table) -> None:
    """Write a table. The vectors are streamed into the archive, as they may not fit into memory."""
    with ZipFile(path, "w", allowZip64=True) as archive:
        _write_vectors(archive, table)
        for name, values in _columns(table).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asanyarray(values), allow_pickle=False)


def read_key(path: Path) -> str:
    """The key of a file's provenance; empty where it has none."""
    with np.load(path, allow_pickle=False) as arrays:
        return str(arrays["key"]) if "key" in arrays else ""


def _write_vectors(archive: ZipFile, table: Table) -> None:
    shape = (len(table.order), table.vectors.shape[1])
    header = {"descr": npy.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with archive.open("embeddings.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_1_0(stream, header)
        for _, vectors in table.chunks():
            stream.write(np.ascontiguousarray(vectors, np.float32).tobytes())


def _columns(table: Table) -> dict[str, np.ndarray]:
    rows, origin = table.chosen(), table.provenance
    return {
        "paths": np.array([row.path for row in rows], dtype=np.str_),
        "digests": np.array([row.digest for row in rows], dtype=np.str_),
        "frames": np.array([row.frame for row in rows], np.int32),
        "tiles": np.array([row.tile for row in rows], np.int32),
        "boxes": np.array([row.box for row in rows], np.float64).reshape(-1, 4),
        "times": np.array([row.time for row in rows], np.float64),
        "dpis": np.array([row.dpi for row in rows], np.float64),
        "aspects": np.array([row.aspect for row in rows], np.float64),
        "sizes": np.array([row.size for row in rows], np.int32).reshape(-1, 2),
        "grids": np.array([row.grid_hw for row in rows], np.int32).reshape(-1, 2),
        "labels": np.array([row.label for row in rows], dtype=np.str_),
        "scores": np.array([row.score for row in rows], np.float32),
        "tokens": np.array([row.tokens for row in rows], dtype=np.str_),
        "model": np.array(origin.model),
        "variant": np.array(origin.variant),
        "preparation": np.array(origin.preparation),
        "tool": np.array(origin.tool),
        "key": np.array(origin.key),
    }
