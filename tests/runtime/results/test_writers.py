"""Files that embed writes can be read back by the libraries of their formats."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from naflex_deploy.core.errors import MissingExtraError, UsageError
from naflex_deploy.core.locks import locked
from naflex_deploy.runtime.results import table as table_module
from naflex_deploy.runtime.results.columns import COLUMNS, of_row
from naflex_deploy.runtime.results.table import Provenance, Row, Table
from naflex_deploy.runtime.results.writers import FORMATS, find_format, write_output
from naflex_deploy.runtime.results.writers import parquet as parquet_writer

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
        aspect=1.25,
    )


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(table_module, "CHUNK", 2)
    vectors = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    return Table([row(number) for number in range(6)], vectors, [4, 0, 3, 5, 1], PROVENANCE)


EXPECTED = {
    "path": lambda row: row.path,
    "sha256": lambda row: row.digest,
    "text": lambda row: None,
    "frame": lambda row: row.frame,
    "time": lambda row: row.time,
    "tile": lambda row: row.tile,
    "tiles": lambda row: 2,
    "width": lambda row: 640,
    "height": lambda row: 480 + row.frame,
    "left": lambda row: 0.5,
    "top": lambda row: 1.25,
    "right": lambda row: 639.5,
    "bottom": lambda row: 480.0,
    "aspect": lambda row: 1.25,
    "dpi": lambda row: row.dpi,
    "grid_rows": lambda row: 3,
    "grid_columns": lambda row: 4 + row.frame,
    "label": lambda row: "page" if row.frame % 2 else None,
    "score": lambda row: 0.25 if row.frame % 2 else None,
    "tokens": lambda row: "3.npy" if row.frame == 3 else None,
    "schema": lambda row: 2,
    "model": lambda row: "f00d",
    "variant": lambda row: "onnxruntime-cpu-fp32",
    "preparation": lambda row: '{"image": {}}',
    "tool": lambda row: "naflex-deploy 0",
    "key": lambda row: '{"model":"f00d"}',
}


def read_back(path: Path) -> list[dict[str, object]]:
    """The rows of an output, read by the library of its format, with null for what is unknown."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            count = len(arrays["embedding"])
            columns = {name: array.tolist() if array.ndim else [array.item()] * count for name, array in arrays.items()}
        unknown = ("", -1)
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [
            {name: None if value in unknown or value != value else value for name, value in row.items()} for row in rows
        ]
    return parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", ["npz", "jsonl", "parquet", "parts"])
def test_every_format_has_the_same_columns(
    table: Table, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "PART", 2)
    path = tmp_path / f"out.{suffix}"
    with locked(path) as lock:
        write_output(lock, table)
    assert find_format(path).read_key(path) == PROVENANCE.key
    rows = read_back(path)
    assert len({found["id"] for found in rows}) == len(rows) == 5
    for found, index in zip(rows, table.order, strict=True):
        wanted = row(index)
        assert list(found) == [column.name for column in COLUMNS] + ["embedding"] or suffix == "npz"
        assert set(found) == {"id", "embedding", *EXPECTED}
        for name, value in EXPECTED.items():
            assert found[name] == value(wanted), name
        np.testing.assert_array_equal(np.array(found["embedding"], np.float32), table.vectors[index])
    if suffix == "parts":
        assert sorted(part.name for part in path.iterdir()) == [f"part-{number:05}.parquet" for number in range(3)]
    if suffix in ("parquet", "parts"):
        field = parquet.read_table(path).schema.field("embedding")
        assert (field.type.list_size, str(field.type.value_type)) == (8, "float")


def test_the_id_of_a_row_is_that_of_its_image(table: Table) -> None:
    """A change of what it is made of would part the rows of a database from their images."""
    assert of_row(row(1))["id"] == 7896300236731608727
    assert of_row(Row.of_text("a cat"))["id"] == 2950477471038028993
    others = [replace(row(1), path="x"), replace(row(1), digest="0"), replace(row(1), frame=7), replace(row(1), tile=0)]
    assert len({of_row(other)["id"] for other in [row(1), *others]}) == 5
    assert of_row(replace(row(1), score=0.9, label="x", dpi=3.0))["id"] == of_row(row(1))["id"]


@pytest.mark.parametrize("suffix", ["npz", "jsonl", "parquet", "parts"])
def test_texts_have_the_same_columns(tmp_path: Path, suffix: str) -> None:
    vectors = np.eye(2, 8, dtype=np.float32)
    path = tmp_path / f"out.{suffix}"
    with locked(path) as lock:
        write_output(lock, Table([Row.of_text("a cat"), Row.of_text("東京")], vectors, [0, 1], PROVENANCE))
    rows = read_back(path)
    assert [found["text"] for found in rows] == ["a cat", "東京"]
    for name in ("path", "sha256", "frame", "width", "left", "label", "score"):
        assert [found[name] for found in rows] == [None, None], name


@pytest.mark.parametrize("suffix", ["npz", "jsonl", "parquet", "parts"])
def test_nothing_to_write_is_an_output_of_no_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    with locked(path) as lock:
        write_output(lock, Table([], np.zeros((0, 8), np.float32), [], PROVENANCE))
    assert read_back(path) == []
    assert find_format(path).read_key(path) == ("" if suffix == "jsonl" else PROVENANCE.key)


def test_a_directory_is_replaced_as_a_whole(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "out.parts"
    path.mkdir()
    (path / "part-00009.parquet").write_text("of another run")
    with locked(path) as lock:
        write_output(lock, table)
    assert [part.name for part in path.iterdir()] == ["part-00000.parquet"]


def test_a_path_that_is_no_text_is_written_as_one(tmp_path: Path) -> None:
    bad = replace(row(0), path=os.fsdecode(b"a\xff.png"))
    for suffix in ("npz", "jsonl", "parquet"):
        path = tmp_path / f"out.{suffix}"
        with locked(path) as lock:
            write_output(lock, Table([bad], np.zeros((1, 8), np.float32), [0], PROVENANCE))
        assert read_back(path)[0]["path"] == "a\\xff.png"


def test_the_page_lists_the_columns() -> None:
    page = (Path(__file__).parents[3] / "docs" / "inputs.md").read_text()
    for column in COLUMNS:
        assert f"| `{column.name}` | {column.kind} | {column.meaning} |" in page


def test_an_unknown_format_and_a_missing_package_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"expected a name that ends in \.npz, .* or \.\w+") as refused:
        find_format(Path("out.nothing"))
    assert all(suffix in refused.value.message for suffix in FORMATS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    for suffix, extra in (("parquet", "parquet"), ("parts", "parquet"), ("lance", "lance"), ("faiss", "faiss")):
        with pytest.raises(MissingExtraError) as caught:
            find_format(Path(f"out.{suffix}"))
        assert f"naflex-deploy[{extra}]" in caught.value.hint
