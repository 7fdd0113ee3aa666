"""Bundles with a real engine that builds quickly and sums each image's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from naflex_deploy.core.files import sha256
from naflex_deploy.core.manifest import (
    FILE_NAME,
    SCHEMA,
    FileEntry,
    Gate,
    Head,
    InputSpec,
    Manifest,
    Model,
    OutputSpec,
    Variant,
)
from naflex_deploy.core.pack import Patches, Role
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile

PATCH = 4
WIDTH = 8
LABELS = ["page", "receipt", "photo"]


def summing_manifest(*, budgets: tuple[int, ...] = (16, 64), tokens: int = 16, scale: float = 1.0) -> Manifest:
    """The manifest of a model of patch size 4 with ``pooled``, ``logits`` and ``tokens``."""
    patch_inputs = [InputSpec(role=Role.PATCHES, dtype="uint8", shape=["tokens", 3 * PATCH**2])]
    inputs = [
        *patch_inputs,
        InputSpec(role=Role.SEGMENT_IDS, dtype="int32", shape=["tokens"]),
        InputSpec(role=Role.CU_SEQLENS, dtype="int32", shape=["images+1"]),
    ]
    outputs = [
        OutputSpec(name="pooled", dtype="float32", shape=["images", WIDTH]),
        OutputSpec(name="logits", dtype="float32", shape=["images", len(LABELS)]),
        OutputSpec(name="tokens", dtype="float32", shape=["tokens", WIDTH]),
    ]
    variant = Variant(
        name="onnxruntime-cpu-fp32",
        backend="onnxruntime",
        target="cpu",
        precision="fp32",
        model="variants/onnxruntime-cpu-fp32/model.onnx",
        budgets=list(budgets),
        inputs=inputs,
        outputs=outputs,
        gate=Gate(status="passed"),
    )
    profile = Profile.parse(
        {
            "name": "test",
            "outputs": ["pooled", "logits", "tokens"],
            "image": {"tokens": tokens, "fit": "shrink-only"},
            "packing": {"budgets": list(budgets), "max_images": 32},
        },
        source=lambda path: "test",
    )
    return Manifest(
        schema=SCHEMA,
        tool="test",
        created="2026-01-01",
        model=Model(source=f"sums of {scale:g}", digest=f"{scale:g}", architecture={}, parameters=0),
        preprocessing=Preprocessing(patch_size=PATCH),
        head=Head(labels=LABELS),
        inputs=inputs,
        outputs=outputs,
        variants=[variant],
        files={},
        config=profile,
    )


def projection(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Weights [48, 8] of the patches and [8, 3] of the classes."""
    rng = np.random.default_rng(7)
    width = 3 * PATCH**2
    return (
        (scale * rng.standard_normal((width, WIDTH)) / 255 / width).astype(np.float32),
        rng.standard_normal((WIDTH, len(LABELS))).astype(np.float32),
    )


def expected(image: Patches, scale: float = 1.0) -> np.ndarray:
    """The ``pooled`` output of an image, [8]."""
    return (image.pixels.astype(np.float64) @ projection(scale)[0].astype(np.float64)).sum(0).astype(np.float32)


def write_summing_bundle(path: Path, *, scale: float = 1.0) -> Path:
    """Write such a bundle, whose engine is an ONNX graph."""
    manifest = summing_manifest(scale=scale)
    variant = manifest.variants[0]
    weights, head = projection(scale)
    nodes = [
        helper.make_node("Cast", ["patches"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "weights"], ["tokens"]),
        helper.make_node("Shape", ["cu_seqlens"], ["ends"]),
        helper.make_node("Sub", ["ends", "one"], ["images"]),
        helper.make_node("Squeeze", ["images"], ["count"]),
        helper.make_node("Range", ["zero", "count", "step"], ["numbers"]),
        helper.make_node("Unsqueeze", ["numbers", "axis1"], ["rows"]),
        helper.make_node("Cast", ["segment_ids"], ["segments"], to=TensorProto.INT64),
        helper.make_node("Equal", ["rows", "segments"], ["mine"]),
        helper.make_node("Cast", ["mine"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["mask", "tokens"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
    ]
    constants = {
        "weights": weights,
        "head": head,
        "one": np.array([1]),
        "zero": np.array(0),
        "step": np.array(1),
        "axis1": np.array([1]),
    }
    graph = helper.make_graph(
        nodes,
        "sums",
        [
            helper.make_tensor_value_info("patches", TensorProto.UINT8, ["tokens", 3 * PATCH**2]),
            helper.make_tensor_value_info("segment_ids", TensorProto.INT32, ["tokens"]),
            helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["slots"]),
        ],
        [
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["images", WIDTH]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["images", len(LABELS)]),
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["tokens", WIDTH]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    engine = path / variant.model
    engine.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), engine)
    entry = FileEntry(sha256=sha256(engine), size=engine.stat().st_size)
    content = manifest.model_copy(update={"files": {variant.model: entry}}).to_json()
    (path / FILE_NAME).write_text(content, encoding="utf-8")
    return path
