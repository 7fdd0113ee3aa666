"""Search by words in what embed writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import naflex_deploy as nd
from naflex_deploy.core.locks import locked
from naflex_deploy.runtime.embedding import search as module
from naflex_deploy.runtime.results import table as table_module
from naflex_deploy.runtime.results.table import Provenance, Row, Table
from naflex_deploy.runtime.results.writers import write_output
from tests.cli.conftest import Run
from tests.support.manifests import edit
from tests.support.tiny import bundle as tiny
from tests.support.two_towers import bundle

__all__ = ["bundle", "tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    pictures = [
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8))
        for number in range(4)
    ]
    for number, picture in enumerate(pictures[:3]):
        picture.save(folder / f"{number}.png")
    pictures[3].save(folder / "both.tiff", save_all=True, append_images=[pictures[0].rotate(90, expand=True)])
    return folder


@pytest.mark.parametrize("suffix", ["npz", "jsonl", "parquet", "parts"])
def test_the_nearest_pages_come_first(
    run: Run, bundle: Path, folder: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "CHUNK", 2)
    index = tmp_path / f"pages.{suffix}"
    assert run("embed", bundle, folder, "-o", index).exit_code == 0
    result = run("search", index, "a photo of a dog", "--bundle", bundle, "--top", 3, "--json")
    assert result.exit_code == 0, result.stderr
    engine = nd.load(bundle)
    files = sorted(folder.iterdir())
    rows = engine.embed(files, return_index=True)
    vectors, query = rows.vectors.astype(np.float64), engine.text.embed("a photo of a dog").astype(np.float64)
    scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    order = np.argsort(-scores)[:3]
    hits = json.loads(result.stdout)["hits"]
    np.testing.assert_allclose([hit["cosine"] for hit in hits], scores[order], atol=1e-6)
    expected = [(str(files[rows.inputs[number]]), int(rows.frames[number])) for number in order]
    assert [(hit["path"], hit["frame"]) for hit in hits] == expected
    assert hits[0]["time"] is None
    assert hits[0]["width"] in (24, 40)


def test_the_table_names_pages_and_the_bundle_is_found_beside_the_index(
    run: Run, bundle: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "pages-model")
    run("embed", tmp_path / "pages-model", folder, "-o", tmp_path / "pages.npz")
    result = run("search", tmp_path / "pages.npz", "cat", "--top", 9)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert sum(f"both.tiff page {page}" in line for line in lines for page in (1, 2)) == 2
    assert not any("png page" in line for line in lines)


def test_texts_are_found_by_texts(run: Run, bundle: Path, tmp_path: Path) -> None:
    run("embed", bundle, "--text", "a cat", "--text", "x", "-o", tmp_path / "texts.npz")
    result = run("search", tmp_path / "texts.npz", "a cat", "--bundle", bundle)
    assert [line.split()[1:] for line in result.stdout.splitlines()[1:2]] == [["1.000", "a", "cat"]]


def test_what_cannot_be_searched_is_refused_by_name(
    run: Run, bundle: Path, tiny: Path, folder: Path, tmp_path: Path
) -> None:
    run("embed", bundle, folder, "-o", tmp_path / "i.jsonl")
    run("embed", tiny, folder, "-o", tmp_path / "tiny.npz")
    first, *others = (tmp_path / "i.jsonl").read_text().splitlines()
    (tmp_path / "mixed.jsonl").write_text(
        "\n".join([first, *(line.replace('"model": "', '"model": "x') for line in others)])
    )
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "foreign.jsonl").write_text('{"id": 1, "embedding": [1, 2]}\n')
    (tmp_path / "cut.npz").write_bytes((tmp_path / "tiny.npz").read_bytes()[:500])
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with locked(tmp_path / "narrow.npz") as lock:
        model = json.loads((bundle / "manifest.json").read_text())["model"]["digest"]
        write_output(lock, Table([Row.of_text("x")], np.ones((1, 3), np.float32), [0], Provenance(model, "", "", "")))
    for name, code, said in (
        ("absent.npz", 2, "there is no index at"),
        ("i.txt", 2, "there is no index at"),
        ("tiny.npz", 4, "holds vectors of another model"),
        ("mixed.jsonl", 4, "holds vectors of another model"),
        ("none.jsonl", 2, "has no rows"),
        ("foreign.jsonl", 2, "cannot be read as an index: KeyError"),
        ("cut.npz", 2, "cannot be read as an index: BadZipFile"),
        ("foreign.npz", 2, "cannot be read as an index: KeyError"),
        ("narrow.npz", 4, "found 3"),
    ):
        result = run("search", tmp_path / name, "cat", "--bundle", bundle)
        assert (result.exit_code, said in result.stderr) == (code, True), (name, result.stderr)
    result = run("search", tmp_path / "tiny.npz", "cat", "--bundle", tiny)
    assert (result.exit_code, "has no text tower" in result.stderr) == (2, True)
    result = run("search", tmp_path / "i.jsonl", "cat")
    assert (result.exit_code, "there is no bundle with a text tower" in result.stderr) == (2, True)


def test_a_bundle_of_other_weights_is_passed_over(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "other")
    edit(tmp_path / "other", lambda content: content["model"].update(digest="0" * 64))
    shutil.copytree(bundle, tmp_path / "right")
    model = json.loads((bundle / "manifest.json").read_text())["model"]["digest"]
    assert module.bundle_of(model, [tmp_path]) == tmp_path / "right"
