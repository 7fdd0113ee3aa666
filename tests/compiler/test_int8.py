"""An int8 build ends with a variant that was judged on real images, or with the reason why there is none."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import naflex_deploy as nd
from naflex_deploy.compiler import checkpoints, pipeline, rebuild
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.compiler.quantize.subject import subject_of
from naflex_deploy.core import machine
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.errors import CalibrationError, GateError, UsageError
from naflex_deploy.core.manifest import Head, Manifest, Variant
from naflex_deploy.runtime.bundle.golden import Golden
from naflex_deploy.runtime.bundle.strip import strip
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.calibrations import observed
from tests.support.packs import random_images
from tests.support.tiny import SETTINGS, VARIANT, copied, tiny_checkpoint

INT8 = "onnxruntime-cpu-int8"
GRIDS = ((4, 7), (9, 3), (1, 20), (6, 6), (12, 12), (5, 2), (8, 10), (3, 3))
LOOSE = ("gate.min_cosine=0.9", "gate.min_token_cosine=0.8", "gate.min_top1_agreement=0", "gate.max_margin_error=1")
NAMES = tuple("abcde")


def config(*settings: str) -> Config:
    return resolve("photo", settings=[*SETTINGS, "engine.precision=int8", *LOOSE, *settings], environment={})


@cache
def calibration(bundle: Path) -> QuantSpec:
    """Of the tiny model, with the last eight images held out and labelled."""
    seen = observed(bundle / "portable.onnx", random_images(GRIDS * 3, 8), held_out=8)
    labels = ("a", "b", "", "d", "e", "x", "a", "c")
    return dataclasses.replace(seen, subject=subject_of(tiny_checkpoint(), config().profile), gate_labels=labels)


@pytest.fixture
def calibrated(bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    calibration(bundle).write(path)
    return path


@pytest.fixture(autouse=True)
def _named(_exported_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "read", lambda model, lora=None: named())


def named() -> Checkpoint:
    """The tiny model, which knows the names of its classes."""
    return dataclasses.replace(tiny_checkpoint(), labels=NAMES)


def build(output: Path, calibration: Path | None, *settings: str, steps: list[str] | None = None) -> Variant:
    report = (steps if steps is not None else []).append
    return pipeline.build_bundle(config(*settings), "tiny", output, calibration=calibration, report=report).variants[0]


@pytest.fixture(scope="module")
def built(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in int8. Not to be changed."""
    folder = tmp_path_factory.mktemp("int8")
    calibration(bundle).write(folder / "calibration.json")
    with (
        patch.object(pipeline, "export", copied(bundle)),
        patch.object(checkpoints, "read", lambda model, lora: named()),
    ):
        build(folder / "out", folder / "calibration.json")
    return folder / "out"


def test_the_manifest_says_what_runs_in_eight_bits_and_what_it_costs(built: Path, calibrated: Path) -> None:
    (variant,) = Manifest.read(built).variants
    assert (variant.name, variant.precision) == (INT8, "int8")
    assert variant.build["int8_products"] == {"asked": 12, "running": {"MatMulIntegerToFloat": 12}}
    assert variant.gate.status == "passed"
    figures = variant.gate.figures
    assert 0.9 < figures["pooled_cosine"] < 0.9999999
    assert figures["pooled_cosine"] <= figures["pooled_cosine_mean"]
    # One image has no label, and one has a class that the model does not have.
    assert (figures["images"], figures["labelled"]) == (8, 6)
    assert 0 <= figures["reference_accuracy"] <= 1
    assert 0 < figures["margin_error"] < 1
    assert QuantSpec.read(built / "calibration.json").key == QuantSpec.read(calibrated).key
    assert "calibration.json" in Manifest.read(built).files


def test_golden_packs_hold_the_images_and_verify_measures_the_same(built: Path) -> None:
    golden = Golden.read(built / "golden.npz")
    real = [item for item in golden.packs if item.labels is not None]
    assert len(golden.packs) - len(real) == 16
    assert sum(item.pack.images for item in real) == 8
    assert sorted(np.concatenate([item.labels for item in real]).tolist()) == [-1, -1, 0, 0, 1, 2, 3, 4]
    assert golden.tolerances["int8"].pooled == 0.9
    assert verify(built).gates[INT8].figures == Manifest.read(built).variants[0].gate.figures


def test_an_edge_copy_needs_no_float_weights(built: Path, tmp_path: Path, bundle: Path) -> None:
    assert Manifest.read(built).variants[0].shares == []
    copy = strip(built, INT8, tmp_path / "edge")
    assert not any("portable" in name or "calibration" in name for name in copy.files)
    page = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    found, wanted = nd.load(tmp_path / "edge").embed([page])[0], nd.load(bundle).embed([page])[0]
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.95


def test_a_bundle_gains_an_int8_variant_with_the_images_that_judge_it(own_bundle: Path, calibrated: Path) -> None:
    named = Manifest.read(own_bundle).model_copy(update={"head": Head(labels=list(NAMES))})
    (own_bundle / "manifest.json").write_text(named.to_json())
    before = Golden.read(own_bundle / "golden.npz")
    gates = dict(one.partition("=")[::2] for one in LOOSE)
    profile = named.config.model_copy(
        update={
            "engine": named.config.engine.model_copy(update={"precision": "int8"}),
            "gate": named.config.gate.model_copy(update={k.removeprefix("gate."): float(v) for k, v in gates.items()}),
        }
    )
    with pytest.raises(UsageError, match="precision int8 needs a calibration"):
        rebuild.rebuild(own_bundle, profile)
    variant = rebuild.rebuild(own_bundle, profile, calibration=calibrated)
    assert [one.name for one in Manifest.read(own_bundle).variants] == [VARIANT, INT8]
    # The portable graph gives the same results for them as the reference model.
    after = Golden.read(own_bundle / "golden.npz")
    assert len(after.packs) > len(before.packs) == 16
    assert variant.gate.figures["images"] == 8
    verification = verify(own_bundle)
    assert verification.passed
    assert verification.gates[VARIANT].figures["pooled_cosine"] > 0.9999999
    again = rebuild.rebuild(own_bundle, profile)  # with the calibration that the bundle has now
    assert again.gate.figures == variant.gate.figures
    assert len(Golden.read(own_bundle / "golden.npz").packs) == len(after.packs)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("gate.min_cosine=0.9999999", r"pooled cosine 0\.99\d+ is below"),
        ("gate.min_token_cosine=0.9999999", r"tokens cosine 0\.9\d+ is below"),
        ("gate.max_margin_error=0.0001", r"logit margin error 0\.\d+ is above 0\.0001"),
    ],
)
def test_below_the_gate_the_bundle_is_rejected(calibrated: Path, tmp_path: Path, setting: str, reason: str) -> None:
    with pytest.raises(GateError, match=reason) as caught:
        build(tmp_path / "out", calibrated, setting)
    assert caught.value.code == 3
    assert "calibrate --sensitivity" in caught.value.hint
    assert not (tmp_path / "out").exists()
    rejected = Manifest.read(tmp_path / "out.rejected").variants[0]
    assert rejected.gate.status == "failed"
    assert rejected.gate.figures["images"] == 8


def test_what_is_missing_or_wrong_is_said_before_anything_is_read(calibrated: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match="precision int8 needs a calibration, found none") as caught:
        build(tmp_path / "out", None, steps=steps)
    assert "naflex-deploy calibrate --profile photo" in caught.value.hint
    with pytest.raises(UsageError, match="a calibration is for int8 or fp8, found precision fp32"):
        build(tmp_path / "out", calibrated, "engine.precision=fp32", steps=steps)
    calibrated.write_text("{}")
    with pytest.raises(CalibrationError):
        build(tmp_path / "out", calibrated, steps=steps)
    assert steps == []
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_other_weights_is_refused(calibrated: Path, tmp_path: Path) -> None:
    other = random_checkpoint(tiny_checkpoint().architecture, seed=1)
    with (
        patch.object(checkpoints, "read", lambda model, lora=None: other),
        pytest.raises(CalibrationError, match=r"made for something else: weights: expected \w+…, found \w+…"),
    ):
        build(tmp_path / "out", calibrated)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_a_cpu_without_vnni_is_warned_about(calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(machine, "cpu_flags", lambda: ["avx2"])
    build(tmp_path / "out", calibrated, steps=steps)
    (warning,) = [step for step in steps if step.startswith("warning")]
    assert "no VNNI" in warning


def test_two_builds_are_the_same(built: Path, calibrated: Path, tmp_path: Path) -> None:
    build(tmp_path / "again", calibrated)
    assert Manifest.read(tmp_path / "again").files == Manifest.read(built).files
