"""What a build makes where the profile leaves the choice to the machine, and what is loaded of it elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO is an extra")

from naflex_deploy import load
from naflex_deploy.compiler import checkpoints, golden_packs, pipeline
from naflex_deploy.compiler.backends.registry import choose
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Manifest
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.openvino import backend, model
from naflex_deploy.runtime.backends.session import SideBySide
from naflex_deploy.runtime.bundle.golden import Tolerance
from tests.support.packs import random_images
from tests.support.tiny import SETTINGS, copied, tiny_checkpoint

AUTO = [
    "engine.backends=['openvino', 'onnxruntime']" if setting.startswith("engine.backends") else setting
    for setting in SETTINGS
    if not setting.startswith("engine.precision")
]
NO_BF16 = frozenset({"FP32", "INT8"})
needs_bf16 = pytest.mark.skipif("BF16" not in model.capabilities(), reason="this CPU has no bf16 units")


def build(bundle: Path, output: Path) -> tuple[Manifest, list[str]]:
    lines: list[str] = []
    config = resolve("photo", settings=[*AUTO, "engine.openvino.budgets=[512]"], environment={})
    with (
        patch.object(checkpoints, "read", lambda model, lora=None: tiny_checkpoint()),
        patch.object(pipeline, "export", copied(bundle)),
    ):
        return pipeline.build_bundle(config, "tiny", output, report=lines.append), lines


@needs_bf16
def test_bf16_is_built_beside_fp32_and_loaded_where_it_runs(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Torch's own bf16 reaches 0.99965 and 0.9984 with this model of random weights.
    monkeypatch.setattr(golden_packs, "Tolerance", lambda **limits: Tolerance(pooled=0.99965, tokens=0.9984))
    path = tmp_path / "both"
    manifest, _ = build(bundle, path)
    assert [one.name for one in manifest.variants] == ["openvino-cpu-bf16", "onnxruntime-cpu-fp32"]
    assert all(one.gate.status == "passed" for one in manifest.variants)
    products = manifest.variants[0].build["products"]
    assert set(products) == {"bf16"}
    images = random_images(((3, 5), (12, 11), (2, 9)), 8)
    engine, reference = load(path), load(path, variant="onnxruntime-cpu-fp32")
    assert engine.variant.name == "openvino-cpu-bf16"
    assert "first in the profile's order" in engine.why
    assert reference.why == "it was asked for by name"
    found, wanted = engine.embed(images), reference.embed(images)
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert 0.9995 < cosines.min() < 1 - 1e-9

    session = open_session(path, engine.variant)
    assert isinstance(session, SideBySide)
    assert str(path) not in Path("/proc/self/maps").read_text(), "what becomes of the files cannot matter"
    os.utime(path / engine.variant.model, ns=(0, 0))
    assert session.worker() is session, "a worker is never of another engine"

    monkeypatch.setattr(model, "capabilities", lambda: NO_BF16)
    elsewhere = load(path)
    assert elsewhere.variant.name == "onnxruntime-cpu-fp32"
    assert "openvino-cpu-bf16 does not: this CPU has no units for bf16" in elsewhere.why
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert "'openvino' is not installed (pip install 'naflex-deploy[openvino]')" in load(path).why


@needs_bf16
def test_an_engine_that_misses_its_gate_is_left_out(bundle: Path, tmp_path: Path) -> None:
    """Random weights of this width lose more in bf16 than the gate allows, in torch too."""
    manifest, lines = build(bundle, tmp_path / "one")
    assert [one.name for one in manifest.variants] == ["onnxruntime-cpu-fp32"]
    assert not (tmp_path / "one/variants/openvino-cpu-bf16").exists()
    assert any("openvino-cpu-bf16 is left out, because it misses its gate: pooled cosine" in line for line in lines)
    assert load(tmp_path / "one").variant.name == "onnxruntime-cpu-fp32"


def test_without_bf16_units_fp32_runs_in_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "capabilities", lambda: NO_BF16)
    lowering, precision = choose(resolve("photo", environment={}).profile)
    assert (lowering.backend.name, precision) == ("onnxruntime", "fp32")
    for precision in ("bf16", "fp16"):
        asked = resolve("photo", overrides={"engine.backends": ["openvino"], "engine.precision": precision})
        with pytest.raises(IncompatibleError, match=f"this CPU has no units for {precision}"):
            choose(asked.profile)


def test_what_an_install_would_bring_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    monkeypatch.setattr(backend, "bf16_units", lambda: "AMX")
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    assert backend.opportunity() == (
        "this CPU has AMX: pip install 'naflex-deploy[openvino]' makes packs about 3 times as fast"
    )
    (row,) = backend.BACKEND("openvino").checks()
    assert row == ("openvino", "unavailable", backend.opportunity())
    monkeypatch.setattr(backend, "bf16_units", lambda: "")
    assert backend.opportunity() == ""


def test_a_version_that_was_never_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "version_of_library", lambda: "2024.6.0")
    assert "OpenVINO 2024.6.0 was never run" in (backend.BACKEND("openvino").cannot_run() or "")
