"""Files that embed writes can be read back by the libraries of their formats."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from naflex_deploy.core.errors import MissingExtraError, UsageError
from naflex_deploy.runtime.results import table as table_module
from naflex_deploy.runtime.results.table import Provenance, Row, Table
from naflex_deploy.runtime.results.writers import FORMATS, find_format

PROVENANCE = Provenance("f00d", "onnxruntime-cpu-fp32", '{"image": {}}', "naflex-deploy 0", '{"model":"f00d"}')


def row(number: int) -> Row:
    return Row(
        path=f"clips/{number} ä.mp4",
        digest=f"{number:064x}",
        frame=number,
        last=number == 4,
        tile=number % 2,
        tiles=2,
        size=(640, 480 + number),
        box=(0.5, 1.25, 639.5, 480.0),
        dpi=None if number else 150.0,
        time=number / 3 if number else None,
        grid_hw=(3, 4 + number),
        label="page" if number % 2 else "",
        score=0.25 if number % 2 else 0.0,
        tokens=f"{number}.npy" if number == 3 else "",
    )


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(table_module, "CHUNK", 2)
    vectors = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    return Table([row(number) for number in range(6)], vectors, [4, 0, 3, 5, 1], PROVENANCE)


def test_parquet_has_a_column_a_property_and_its_provenance(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    find_format(path).write(path, table)
    read = parquet.read_table(path)
    np.testing.assert_array_equal(np.stack(read["embedding"].to_pylist()), table.vectors[table.order])
    assert read.schema.field("embedding").type.list_size == 8
    for found, index in zip(read.to_pylist(), table.order, strict=True):
        wanted = row(index)
        assert (found["path"], found["sha256"], found["frame"]) == (wanted.path, wanted.digest, wanted.frame)
        assert (found["tile"], found["tiles"], found["width"], found["height"]) == (wanted.tile, 2, *wanted.size)
        assert (found["left"], found["top"], found["right"], found["bottom"]) == wanted.box
        assert (found["dpi"], found["time"]) == (wanted.dpi, wanted.time)
        assert (found["grid_rows"], found["grid_columns"]) == wanted.grid_hw
        assert (found["label"], found["score"]) == (("page", 0.25) if index % 2 else (None, None))
        assert found["tokens"] == (wanted.tokens or None)
        assert found["model"] == PROVENANCE.model
        assert (found["variant"], found["preparation"], found["tool"]) == (
            PROVENANCE.variant,
            PROVENANCE.preparation,
            PROVENANCE.tool,
        )


def test_npz_and_jsonl_hold_the_same(table: Table, tmp_path: Path) -> None:
    archive, lines = tmp_path / "out.npz", tmp_path / "out.jsonl"
    for path in (archive, lines):
        find_format(path).write(path, table)
    read = [json.loads(line) for line in lines.read_text().splitlines()]
    with np.load(archive) as arrays:
        np.testing.assert_array_equal(arrays["embeddings"], table.vectors[table.order])
        np.testing.assert_array_equal(arrays["embeddings"], np.array([r["embedding"] for r in read], np.float32))
        for name, key in (("paths", "path"), ("digests", "digest"), ("frames", "frame"), ("tiles", "tile")):
            assert arrays[name].tolist() == [found[key] for found in read]
        assert arrays["boxes"].tolist() == [found["box"] for found in read]
        assert [None if np.isnan(time) else time for time in arrays["times"]] == [found["time"] for found in read]
        assert str(arrays["model"]) == read[0]["model"] == PROVENANCE.model
        assert str(arrays["preparation"]) == PROVENANCE.preparation
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.npz"]


@pytest.mark.parametrize("suffix", ["npz", "jsonl", "parquet"])
def test_nothing_to_write_is_a_file_of_no_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    find_format(path).write(path, Table([], np.zeros((0, 8), np.float32), [], PROVENANCE))
    if suffix == "npz":
        with np.load(path) as arrays:
            assert arrays["embeddings"].shape == (0, 8)
    elif suffix == "parquet":
        assert parquet.read_table(path).num_rows == 0
    else:
        assert path.read_text() == ""


def test_an_unknown_format_and_a_missing_package_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"expected a name that ends in \.npz, .* or \.\w+") as refused:
        find_format(Path("out.nothing"))
    assert all(suffix in refused.value.message for suffix in FORMATS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError) as caught:
        find_format(Path("out.parquet"))
    assert "naflex-deploy[parquet]" in caught.value.hint
