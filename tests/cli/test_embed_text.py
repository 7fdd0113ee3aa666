"""Texts on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import naflex_deploy as nd
from tests.cli.conftest import Run
from tests.support.tiny import bundle as tiny
from tests.support.two_towers import WIDTH, bundle

__all__ = ["bundle", "tiny"]

TEXTS = ("a red car", "東京", 'with "quotes"')
OPTIONS = [part for text in TEXTS for part in ("--text", text)]


@pytest.fixture
def expected(bundle: Path) -> np.ndarray:
    return nd.load(bundle).text.embed(TEXTS)


def test_vectors_go_to_npz(run: Run, bundle: Path, expected: np.ndarray, tmp_path: Path) -> None:
    result = run("embed", bundle, *OPTIONS, "-o", tmp_path / "t.npz")
    assert result.exit_code == 0, result.stderr
    assert f"3 vectors of {WIDTH} float32" in result.stdout
    with np.load(tmp_path / "t.npz") as found:
        assert found["text"].tolist() == list(TEXTS)
        np.testing.assert_array_equal(found["embedding"], expected)


def test_vectors_go_to_jsonl(run: Run, bundle: Path, expected: np.ndarray, tmp_path: Path) -> None:
    document = json.loads(run("embed", bundle, *OPTIONS, "-o", tmp_path / "t.jsonl", "--json").stdout)
    assert (document["texts"], document["width"]) == (list(TEXTS), WIDTH)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == list(TEXTS)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, rtol=1e-6)


def test_refusals(run: Run, bundle: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.npz").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        ((bundle,), "expected images or --text, found neither"),
        ((bundle, tmp_path, "--text", "x"), "expected images or --text, found both"),
        ((bundle, "--text", "x", "-o", "t.txt"), "ends in .npz, .jsonl, .parquet"),
        ((bundle, "--text", "x", "-o", "there.npz"), "exists already"),
        ((tiny, "--text", "x"), "has no text tower"),
    ):
        result = run("embed", *arguments)
        assert result.exit_code == 2
        assert said in result.stderr
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = run("embed", bundle, "--text", "x")
    assert (result.exit_code, "pip install 'naflex-deploy[text]'" in result.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]


def test_images_get_the_names_of_labels(run: Run, bundle: Path, images: Path, tmp_path: Path) -> None:
    result = run("embed", bundle, images, "-o", tmp_path / "i.npz")
    assert result.exit_code == 0, result.stderr
    with np.load(tmp_path / "i.npz") as found:
        assert set(found["label"].tolist()) <= {"cat", "dog", "nothing", "units", "long"}
