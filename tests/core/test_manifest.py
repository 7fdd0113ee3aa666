from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.errors import BundleError, IncompatibleError
from naflex_deploy.core.manifest import FILE_NAME, SCHEMA, Head, Manifest, reading
from tests.support.manifests import a_manifest
from tests.support.manifests import edit as seal_again


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / FILE_NAME).write_text(a_manifest().to_json())
    return tmp_path


def edit(bundle: Path, **changes: object) -> None:
    seal_again(bundle, lambda content: content.update(changes))


def test_a_manifest_survives_being_written(bundle: Path) -> None:
    assert Manifest.read(bundle) == a_manifest()
    assert json.loads((bundle / FILE_NAME).read_text())["schema"] == SCHEMA


def test_unmeasured_figures_and_labels_survive(bundle: Path) -> None:
    manifest = a_manifest().model_copy(update={"head": Head(labels=["täglich", "日報", '"quoted"\n'])})
    (bundle / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    found = Manifest.read(bundle)
    assert found.head == manifest.head
    assert found.variants[0].gate.min_cosine is None


@pytest.mark.parametrize("key", ["std", "mean"])
@pytest.mark.parametrize("value", [0.0, -0.5])
def test_pixels_are_divided_by_positive_numbers(bundle: Path, key: str, value: float) -> None:
    preprocessing = json.loads(a_manifest().to_json())["preprocessing"]
    edit(bundle, preprocessing=preprocessing | {key: [0.5, value, 0.5]})
    if key == "mean":
        assert Manifest.read(bundle).preprocessing.mean[1] == value
    else:
        with pytest.raises(BundleError, match=rf"preprocessing\.{key}\.1: Input should be"):
            Manifest.read(bundle)


def test_variants_are_found_by_name() -> None:
    manifest = a_manifest()
    assert manifest.variant("onnxruntime-cpu-fp32") is manifest.variants[0]
    with pytest.raises(KeyError):
        manifest.variant("no")


def test_a_newer_schema_asks_for_an_upgrade(bundle: Path) -> None:
    edit(bundle, schema=SCHEMA + 1, tool="naflex-deploy 9.9", something_new={})
    said = rf"schema {SCHEMA + 1}, expected at most {SCHEMA} \(written by naflex-deploy 9.9\)"
    with pytest.raises(IncompatibleError, match=said) as e:
        Manifest.read(bundle)
    assert not isinstance(e.value, BundleError)
    assert (e.value.code, e.value.hint) == (4, "upgrade: pip install --upgrade naflex-deploy")


def test_without_a_manifest_it_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected manifest.json, found a directory without one") as caught:
        Manifest.read(tmp_path)
    assert caught.value.code == 4
    with pytest.raises(BundleError, match="found no such directory"):
        Manifest.read(tmp_path / "nothing")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BundleError, match="expected a directory, found a file"):
        Manifest.read(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "unreadable"),
        (b"{", "unreadable"),
        (b"\xff", "unreadable"),
        (b"[" * 100_000, "unreadable"),
        (b"[]", "schema: expected a whole number"),
        (b"{}", "schema: expected a whole number"),
        (b'{"schema": true}', "schema: expected a whole number, found 'True'"),
        (b'{"schema": 3}', "tool: Field required"),
        (b'{"schema": 4}', "its content is not what its digest was computed from"),
        (b'{"schema": 3, "tool": "a", "tool": "b"}', "the key 'tool' stands twice"),
        (b'{"schema": 3, "tool": NaN}', "NaN is not a number of JSON"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "unreadable"),
    ],
)
def test_damage_is_reported(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=problem):
        Manifest.read(tmp_path)


def test_a_wrong_value_is_reported_with_its_path(bundle: Path) -> None:
    variants = json.loads((bundle / FILE_NAME).read_text())["variants"]
    variants[0]["precision"] = "fp33"
    edit(bundle, variants=variants)
    with pytest.raises(BundleError, match=r"variants\.0\.precision: Input should be 'fp32'"):
        Manifest.read(bundle)


@settings(deadline=None)
@given(st.data())
def test_a_flipped_byte_is_refused_unless_it_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(a_manifest().to_json().encode())
    content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= data.draw(st.integers(1, 255), label="flip")
    bundle = tmp_path_factory.getbasetemp() / "flipped"
    bundle.mkdir(exist_ok=True)
    (bundle / FILE_NAME).write_bytes(content)
    with contextlib.suppress(IncompatibleError):
        assert Manifest.read(bundle) == a_manifest()


def test_an_edit_breaks_the_seal(bundle: Path) -> None:
    path = bundle / FILE_NAME
    path.write_text(path.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))
    with pytest.raises(BundleError, match="its content is not what its digest was computed from"):
        Manifest.read(bundle)


def test_white_space_and_the_order_of_keys_leave_the_seal_whole(bundle: Path) -> None:
    path = bundle / FILE_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert Manifest.read(bundle) == a_manifest()


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ("model.prefix", -1, "greater than or equal to 0"),
        ("variants.0.name", "../x", "expected letters, digits"),
        ("variants.0.name", "a\0b", "expected letters, digits"),
        ("variants.0.model", "/dev/zero", "expected a path inside the bundle"),
        ("variants.0.model", "variants/../../x", "expected a path inside the bundle"),
        ("variants.0.model", "variants\\x", "expected a path inside the bundle"),
        ("variants.0.model", "a\0b", "expected a path inside the bundle"),
        ("variants.0.model", "x" * 256, "expected a path inside the bundle"),
        ("variants.0.shares", ["c:/x"], "expected a path inside the bundle"),
        ("variants.0.model", "variants/a/model.bin", "the name of a graph, which ends in .onnx"),
        ("variants.0.budgets", [], "at least 1 item"),
        ("variants.0.budgets", [64, 16], "ascending"),
        ("variants.0.budgets", [2**63], "less than or equal to"),
        ("preprocessing.patch_size", 2**13, "a pack of 'onnxruntime-cpu-fp32' takes"),
        ("variants.0.inputs.0.shape", [], "at least 1 item"),
        ("variants.0.inputs.0.shape", [0], "positive size"),
        ("variants.0.inputs.0.dtype", "object", "Input should be 'bool'"),
        ("variants.0.inputs.1.role", "patches", "two inputs are named 'patches'"),
        ("variants.0.outputs.0.shape", ["images"], "a size as the last dimension"),
        ("variants.0.outputs.1.name", "pooled", "two outputs are named 'pooled'"),
        ("variants.0.outputs.0.name", "\x1b[2J", "the name of an output"),
        ("files", {"../x": {"sha256": "0" * 64, "size": 1}}, "expected a path inside the bundle"),
        ("files", {"x": {"sha256": "0", "size": 1}}, "64 hexadecimal digits"),
        ("files", {"x": {"sha256": "0" * 64, "size": -1}}, "greater than or equal to 0"),
        ("head", {"labels": ["a"], "thresholds": [0.1, 0.2]}, "expected 1 thresholds"),
    ],
)
def test_values_that_lead_astray_are_refused(bundle: Path, place: str, value: object, problem: str) -> None:
    def change(content: Any) -> None:
        *folders, last = (int(part) if part.isdigit() else part for part in place.split("."))
        for part in folders:
            content = content[part]
        content[last] = value

    seal_again(bundle, change)
    with pytest.raises(BundleError, match=re.escape(problem)):
        Manifest.read(bundle)


def test_two_variants_have_two_names(bundle: Path) -> None:
    edit(bundle, variants=2 * json.loads((bundle / FILE_NAME).read_text())["variants"])
    with pytest.raises(BundleError, match="two variants are named 'onnxruntime-cpu-fp32'"):
        Manifest.read(bundle)


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(BundleError, match="expected a regular file"):
        Manifest.read(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).write_text("{}")
    monkeypatch.setattr(reading, "MOST_BYTES", 1)
    with pytest.raises(BundleError, match="expected at most 1 bytes, found 2"):
        Manifest.read(tmp_path)
