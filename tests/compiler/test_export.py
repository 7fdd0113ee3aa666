"""The portable graph: its results against the reference model, and its file."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.compiler.export import export, input_specs, output_specs
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.core.pack import Pack
from tests.support.exports import exporting_anew
from tests.support.packs import inputs, random_images
from tests.support.shared import once
from tests.support.tiny import CLASSES, WIDTH, tiny_checkpoint

OUTPUTS = ("tokens", "pooled", "logits", "tokens:-2", "tokens:-2:norm")
GRIDS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=7)
UNSUPPORTED = {"Resize", "Upsample", "GridSample", "AffineGrid", "If", "Loop", "Scan"}
"""Not in every engine, or not in this use."""


def exported_anew(folder: Path) -> None:
    with exporting_anew():
        export(tiny_checkpoint().model(OUTPUTS), folder / "portable.onnx")


@pytest.fixture(scope="module")
def graph() -> Path:
    return once("exported-anew", exported_anew) / "portable.onnx"


@cache
def reference() -> PackedNaFlexViT:
    return tiny_checkpoint().model(OUTPUTS, ragged_attention)


@pytest.fixture(scope="module")
def session(graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def assert_equal(session: onnxruntime.InferenceSession, pack: Pack) -> None:
    """Graph and reference model agree on every image; the reference runs image by image."""
    model = reference()
    with torch.inference_mode():
        wanted = model(*inputs(model, pack))
    found = session.run(list(OUTPUTS), {role.value: pack.view(role) for role in model.roles})
    for name, values in zip(OUTPUTS, found, strict=True):
        rows = pack.useful_tokens if name.startswith("tokens") else pack.images
        ours, theirs = values[:rows], wanted[name][:rows].numpy()
        assert values.shape[0] == (pack.tokens if name.startswith("tokens") else pack.slots), name
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max(), name


@settings(deadline=None, max_examples=60)
@given(grids=GRIDS, tail=st.integers(0, 9), unused=st.integers(0, 3))
def test_onnxruntime_gives_what_the_reference_gives(
    session: onnxruntime.InferenceSession, grids: list[tuple[int, int]], tail: int, unused: int
) -> None:
    useful = sum(h * w for h, w in grids)
    images = random_images(grids, patch_size=8, seed=useful)
    assert_equal(session, Pack.of(images, tokens=useful + tail, slots=len(grids) + unused))


@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize("unused", [0, 1])
@pytest.mark.parametrize(
    "grids", [[(1, 1)], [(1, 1)] * 3, [(1, 300)], [(150, 2), (1, 1)]], ids=["T1", "one patch each", "row", "column"]
)
def test_the_least_and_the_longest(
    session: onnxruntime.InferenceSession, grids: Sequence[tuple[int, int]], unused: int, tail: int
) -> None:
    useful = sum(h * w for h, w in grids)
    pack = Pack.of(random_images(grids, patch_size=8), tokens=useful + tail, slots=len(grids) + unused)
    assert_equal(session, pack)


def test_only_stock_operators(graph: Path) -> None:
    model = onnx.load(graph)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert not model.functions
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not UNSUPPORTED & {node.op_type for node in model.graph.node}


def test_it_passes_the_full_checker_and_strict_shape_inference(graph: Path) -> None:
    onnx.checker.check_model(graph, full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(graph), check_type=True, strict_mode=True, data_prop=True)


def test_inputs_are_roles_and_dimensions_are_tokens_and_images(graph: Path) -> None:
    model = onnx.load(graph, load_external_data=False)
    assert {spec.role.value: (spec.dtype, spec.shape) for spec in input_specs(model)} == {
        "patches": ("uint8", ["tokens", 8 * 8 * 3]),
        "coords": ("int32", ["tokens", 2]),
        "grid_hw": ("int32", ["images+1", 2]),
        "segment_ids": ("int32", ["tokens"]),
    }
    assert {spec.name: (spec.dtype, spec.shape) for spec in output_specs(model)} == {
        "tokens": ("float32", ["tokens", WIDTH]),
        "pooled": ("float32", ["images", WIDTH]),
        "logits": ("float32", ["images", CLASSES]),
        "tokens:-2": ("float32", ["tokens", WIDTH]),
        "tokens:-2:norm": ("float32", ["tokens", WIDTH]),
    }


def test_nodes_are_named_after_the_module_they_came_from(graph: Path) -> None:
    names = [node.name for node in onnx.load(graph, load_external_data=False).graph.node]
    assert len(names) == len(set(names))
    for module in ("embed", "positions", "blocks.0.mlp.fc1", "blocks.1.query", "pool", "classifier"):
        assert any(name.startswith((f"{module}/", f"{module}.")) for name in names), module


def test_the_file_says_nothing_of_the_machine_that_made_it(graph: Path) -> None:
    content = graph.read_bytes()
    for private in (os.getcwd(), sys.prefix, str(graph.parent), str(Path.home()) + "/", "site-packages"):
        assert private.encode() not in content, private
    assert not re.search(rb"\.py\b", content)


def test_the_weights_lie_beside_it(graph: Path) -> None:
    assert sorted(path.name for path in graph.parent.iterdir()) == ["portable.onnx", "portable.onnx.data"]
    parameters = sum(tensor.numel() for tensor in tiny_checkpoint().weights.values())
    assert (graph.parent / "portable.onnx.data").stat().st_size >= 0.9 * 4 * parameters


def test_the_same_model_gives_the_same_bytes(graph: Path, tmp_path: Path) -> None:
    exported_anew(tmp_path)
    for name in ("portable.onnx", "portable.onnx.data"):
        digests = {hashlib.sha256((folder / name).read_bytes()).digest() for folder in (graph.parent, tmp_path)}
        assert len(digests) == 1, name
