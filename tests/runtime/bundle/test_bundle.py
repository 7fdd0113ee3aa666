"""What is refused before anything of a bundle is deserialised, and which variant is chosen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naflex_deploy as nd
from naflex_deploy.core.errors import BundleError, IncompatibleError
from naflex_deploy.core.manifest import SCHEMA, Gate
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.verify import verify
from naflex_deploy.runtime.loading import load_engine
from tests.support.manifests import a_manifest, a_variant, edit
from tests.support.tiny import VARIANT, WIDTH

ENGINE_FILES = [f"variants/{VARIANT}/model.onnx", f"variants/{VARIANT}/model.onnx.data", "portable.onnx.data"]
FILES = ["golden.npz", "golden-images.npz", "portable.onnx", *ENGINE_FILES]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "flipped byte": (flip, "was changed: expected sha256"),
    "missing": (Path.unlink, "is missing from the bundle"),
    "truncated": (truncate, r"expected \d+ bytes, found \d+"),
    "empty": (lambda path: path.write_bytes(b""), r"expected \d+ bytes, found 0"),
    "directory": (lambda path: (path.unlink(), path.mkdir()), "is missing from the bundle"),
}


def never(path: Path, variant: object) -> Any:
    raise AssertionError("an engine was opened")


def test_a_bundle_lists_every_file_it_has(bundle: Path) -> None:
    assert sorted(Bundle.open(bundle).manifest.files) == sorted(FILES)
    Bundle.open(bundle).check(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_found(own_bundle: Path, name: str, damage: str) -> None:
    spoil, problem = DAMAGE[damage]
    spoil(own_bundle / name)
    with pytest.raises(BundleError, match=problem) as caught:
        verify(own_bundle)
    assert str(own_bundle / name) in caught.value.message
    assert caught.value.code == 4
    if name in ENGINE_FILES:
        with pytest.raises(BundleError, match=problem):
            load_engine(own_bundle, session=never)


def test_loading_needs_the_files_of_its_variant_alone(own_bundle: Path) -> None:
    for name in set(FILES) - set(ENGINE_FILES):
        (own_bundle / name).unlink()
    assert nd.load(own_bundle).embed([np.zeros((9, 9, 3), np.uint8)]).shape == (1, WIDTH)


def test_a_bundle_works_wherever_it_is_copied(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "elsewhere" / "ünïcode name")
    image = np.full((30, 50, 3), 77, np.uint8)
    assert np.array_equal(nd.load(copy).embed([image]), nd.load(bundle).embed([image]))


def test_a_newer_schema_is_refused_before_anything_else(own_bundle: Path) -> None:
    edit(own_bundle, lambda content: content.update(schema=SCHEMA + 1, variants="something else"))
    with pytest.raises(IncompatibleError, match=f"schema {SCHEMA + 1}, expected at most {SCHEMA}"):
        load_engine(own_bundle, session=never)
    with pytest.raises(IncompatibleError, match=f"schema {SCHEMA + 1}, expected at most {SCHEMA}"):
        verify(own_bundle)


@pytest.mark.parametrize("absolute", [True, False])
def test_an_engine_outside_the_bundle_is_refused(own_bundle: Path, absolute: bool) -> None:
    outside = own_bundle.parent / "outside.onnx"
    shutil.move(own_bundle / ENGINE_FILES[0], outside)
    name = str(outside) if absolute else "../outside.onnx"

    def point_outside(content: dict[str, Any]) -> None:
        content["variants"][0]["model"] = name
        content["files"][name] = content["files"].pop(ENGINE_FILES[0])

    edit(own_bundle, point_outside)
    with pytest.raises(BundleError, match="expected a path inside the bundle"):
        load_engine(own_bundle, session=never)


def test_a_link_out_of_the_bundle_is_refused(own_bundle: Path) -> None:
    engine = own_bundle / ENGINE_FILES[0]
    outside = shutil.move(engine, own_bundle.parent / "outside.onnx")
    engine.symlink_to(outside)
    with pytest.raises(BundleError, match="lies outside the bundle"):
        load_engine(own_bundle, session=never)


def test_an_engine_that_is_not_listed_is_refused(own_bundle: Path) -> None:
    edit(own_bundle, lambda content: content["files"].pop(ENGINE_FILES[0]))
    with pytest.raises(BundleError, match="is not listed in the manifest"):
        load_engine(own_bundle, session=never)


def bundle_of(*variants: object, backends: tuple[str, ...] = ("tensorrt", "onnxruntime")) -> Bundle:
    manifest = a_manifest(*variants)  # type: ignore[arg-type]
    engine = manifest.config.engine.model_copy(update={"backends": list(backends)})
    config = manifest.config.model_copy(update={"engine": engine})
    return Bundle(Path("b"), manifest.model_copy(update={"config": config, "variants": list(variants)}))


PLAN = a_variant("tensorrt-plan", backend="tensorrt-of-the-future")
CPU = a_variant("cpu")
CPU_2 = a_variant("cpu-2")
FAILED = a_variant("failed", gate=Gate(status="failed", reason="tokens cosine 0.9"))


def test_the_first_variant_that_fits_is_taken() -> None:
    assert bundle_of(FAILED, PLAN, CPU, CPU_2).choose() is CPU


def test_every_variant_is_listed_with_its_reason() -> None:
    candidates = {item.variant.name: item.rejected for item in bundle_of(PLAN, FAILED, CPU).candidates()}
    assert candidates["cpu"] is None
    assert candidates["failed"] == "it failed its gate: tokens cosine 0.9"
    assert "tensorrt-of-the-future" in str(candidates["tensorrt-plan"])


def test_variants_come_in_the_order_of_the_profile() -> None:
    other = a_variant("x", backend="other")
    named = [item.variant.name for item in bundle_of(CPU, other, CPU_2, backends=("other", "onnxruntime")).candidates()]
    assert named == ["x", "cpu", "cpu-2"]


def test_a_variant_is_chosen_by_name() -> None:
    assert bundle_of(CPU, CPU_2).choose("cpu-2") is CPU_2
    with pytest.raises(IncompatibleError, match="has no variant 'cpu-3'") as caught:
        bundle_of(CPU, CPU_2).choose("cpu-3")
    assert caught.value.hint == "did you mean 'cpu-2'?"
    with pytest.raises(IncompatibleError, match="failed: it failed its gate"):
        bundle_of(CPU, FAILED).choose("failed")


def test_where_none_fits_each_reason_is_given() -> None:
    with pytest.raises(IncompatibleError, match=r"failed: it failed its gate.*; tensorrt-plan: .*future"):
        bundle_of(PLAN, FAILED).choose()
    with pytest.raises(IncompatibleError, match="it has no variants"):
        bundle_of().choose()


def test_load_takes_a_variant_by_name(own_bundle: Path) -> None:
    assert nd.load(own_bundle, variant=VARIANT).variant.name == VARIANT
    with pytest.raises(IncompatibleError, match="no variant 'x'"):
        nd.load(own_bundle, variant="x")
