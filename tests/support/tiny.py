"""A bundle of a tiny model with random weights, built once a run of the tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.compiler.pipeline import build_bundle
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.manifest import Manifest
from tests.support.shared import once

VARIANT = "onnxruntime-cpu-fp32"
BUDGET = 512
WIDTH = 32
CLASSES = 5


@cache
def tiny_checkpoint() -> Checkpoint:
    return random_checkpoint(Architecture(WIDTH, 2, 4, 64, 8, Positions((5, 6)), classes=CLASSES), source="tiny")


SETTINGS = (
    "outputs=['tokens', 'pooled']",
    "image.tokens=200",
    "image.fit=shrink-only",
    f"engine.onnxruntime.budgets=[128, {BUDGET}]",
    "engine.backends=['onnxruntime']",
    "engine.precision=fp32",
    "packing.max_images=8",
)
"""Small images stay small, so that lengths differ."""


def tiny_config() -> Config:
    return resolve("photo", settings=SETTINGS, environment={})


def build_tiny(output: Path, *, force: bool = False, report: Callable[[str], None] = lambda step: None) -> Manifest:
    with patch.object(checkpoints, "read", lambda model, lora=None: tiny_checkpoint()):
        return build_bundle(tiny_config(), "tiny", output, force=force, report=report)


def copied(bundle: Path) -> Callable[[PackedNaFlexViT, Path], None]:
    """Replaces `export` by the portable graph of a bundle, because exporting it again takes seconds."""

    def export(model: PackedNaFlexViT, path: Path) -> None:
        for name in ("portable.onnx", "portable.onnx.data"):
            shutil.copy(bundle / name, path.with_name(name))

    return export


@pytest.fixture(scope="session")
def bundle() -> Path:
    """A bundle with the outputs tokens, pooled and logits. Not to be changed."""
    return once("tiny", lambda folder: build_tiny(folder / "bundle")) / "bundle"


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))
