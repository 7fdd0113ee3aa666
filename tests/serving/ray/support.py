"""The images of these tests, and what a complete output of them holds."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet

from tests.serving.support import pixels, vector

IMAGES = [pixels(seed, 4 * (1 + seed % 3), 4 * (1 + seed % 4)) for seed in range(20)]
BAD = {3, 11}


def assert_complete(output, paths):
    """A row for every good image in its place, with the vector that numpy gives, and an error for every bad one."""
    rows = _table(output, "part")
    assert [row["path"] for row in rows] == [str(path) for i, path in enumerate(paths) if i not in BAD]
    expected = [vector(image) for i, image in enumerate(IMAGES) if i not in BAD]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, rtol=1e-4, atol=1e-5)
    rejected = _table(output, "rejected")
    assert [row["path"] for row in rejected] == [str(paths[i]) for i in sorted(BAD)]
    assert all("expected JPEG" in row["error"] for row in rejected)


def _table(output, kind):
    files = sorted(output.glob(f"{kind}-*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
