from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.errors import BundleError, IncompatibleError
from naflex_deploy.core.manifest import FILE_NAME, SCHEMA, Head, Manifest
from tests.support.manifests import a_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / FILE_NAME).write_text(a_manifest().to_json())
    return tmp_path


def edit(bundle: Path, **changes: object) -> None:
    path = bundle / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
@pytest.mark.parametrize("value", [0.0, -0.5, float("nan"), float("inf")])
def test_pixels_are_divided_by_positive_numbers(bundle: Path, key: str, value: float) -> None:
    preprocessing = json.loads(a_manifest().to_json())["preprocessing"]
    edit(bundle, preprocessing=preprocessing | {key: [0.5, value, 0.5]})
    if key == "mean" and value <= 0:
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
        (b"[]", "valid dictionary"),
        (b"{}", "tool: Field required"),
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
def test_any_flipped_byte_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(a_manifest().to_json().encode())
    content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= data.draw(st.integers(1, 255), label="flip")
    bundle = tmp_path_factory.getbasetemp() / "flipped"
    bundle.mkdir(exist_ok=True)
    (bundle / FILE_NAME).write_bytes(content)
    with contextlib.suppress(IncompatibleError):
        Manifest.read(bundle)
