"""Manifests of every schema that was ever written are read; those of unknown schemas are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import FILE_NAME, SCHEMA, Head, Manifest
from naflex_deploy.core.manifest.migrate import STEPS

OLDER = {schema: Path(__file__).parent / f"manifest-{schema}.json" for schema in (1, 2, 3)}
"""A manifest of each older schema, as the version of that time wrote it."""


def read(folder: Path, content: dict[str, Any]) -> Manifest:
    (folder / FILE_NAME).write_text(json.dumps(content))
    return Manifest.read(folder)


def test_every_older_schema_has_a_step_and_an_example() -> None:
    assert set(STEPS) == set(OLDER) == set(range(1, SCHEMA))


@pytest.mark.parametrize("schema", OLDER)
def test_an_older_manifest_is_read_and_written_as_the_newest(schema: int, tmp_path: Path) -> None:
    shutil.copy(OLDER[schema], tmp_path / FILE_NAME)
    assert json.loads((tmp_path / FILE_NAME).read_text())["schema"] == schema
    manifest = Manifest.read(tmp_path)
    (tmp_path / FILE_NAME).write_text(manifest.to_json())
    assert json.loads((tmp_path / FILE_NAME).read_text())["schema"] == SCHEMA
    assert Manifest.read(tmp_path) == manifest


def test_labels_became_a_head(tmp_path: Path) -> None:
    content = json.loads(OLDER[1].read_text())
    assert read(tmp_path, content).head == Head(labels=["page", "receipt", "photo", "form", "ticket"])
    assert read(tmp_path, content | {"labels": []}).head == Head(labels=["0", "1", "2", "3", "4"])
    outputs = [output for output in content["outputs"] if output["name"] != "logits"]
    assert read(tmp_path, content | {"outputs": outputs, "labels": []}).head is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 0}, "there is no schema 0"),
        ({"schema": -1}, "there is no schema -1"),
        ({"schema": 1, "outputs": None}, "it is not a manifest of schema 1"),
        ({"schema": 1, "outputs": [{}]}, "it is not a manifest of schema 1"),
        ({"schema": 1, "outputs": [{"name": "logits", "shape": []}], "labels": []}, "it is not a manifest of schema 1"),
        ({"schema": 1, "tool": None}, "tool: "),
        ({"schema": 1, "surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_damage_is_reported(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(BundleError, match=problem) as caught:
        read(tmp_path, json.loads(OLDER[1].read_text()) | changes)
    assert caught.value.code == 4


def test_what_a_schema_2_manifest_does_not_say_is_as_it_was(tmp_path: Path) -> None:
    manifest = read(tmp_path, json.loads(OLDER[2].read_text()))
    assert manifest.preprocessing.channels == 3
    assert manifest.text is not None
    assert manifest.text.tokens.mask is False
    assert (manifest.witness, manifest.preprocessing_origins) == (None, {})
