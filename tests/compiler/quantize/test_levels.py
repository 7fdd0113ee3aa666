"""8-bit levels represent a value as closely as possible, and agree with ONNX Runtime's operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.compiler.quantize.levels import DTYPES, Kind, Levels, quantize_weight

KINDS: tuple[Kind, ...] = ("u8", "s8", "e4m3")
ranges = st.tuples(st.floats(-1e3, 0), st.floats(0, 1e3)).filter(lambda found: found[1] - found[0] > 1e-3)


def dequantized_by_onnxruntime(x: np.ndarray, levels: Levels) -> np.ndarray:
    kind = onnx.helper.np_dtype_to_tensor_dtype(DTYPES[levels.kind])
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    constants = [
        onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [levels.scale]),
        onnx.helper.make_tensor("zero", kind, [], [int(levels.zero)]),
    ]
    x_info, y_info = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [len(x)]) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "g", [x_info], [y_info], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@given(found=ranges, seed=st.integers(0, 99))
def test_inside_the_range_no_value_is_more_than_half_a_step_off(found: tuple[float, float], seed: int) -> None:
    x = np.random.default_rng(seed).uniform(*found, 50).astype(np.float32)
    for kind in ("u8", "s8"):
        levels = Levels.of(kind, *found)
        assert np.abs(levels.nearest(x) - x).max() <= 0.5001 * levels.scale + 1e-6 * max(map(abs, found))
    assert levels.nearest(np.zeros(1, np.float32))[0] == 0
    low, high = Levels.of("u8", *found).range
    assert low <= found[0] + levels.scale
    assert high >= found[1] - levels.scale


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_onnxruntime(kind: Kind) -> None:
    levels = Levels.of(kind, -1.7, 3.1)
    x = np.random.default_rng(0).uniform(-6, 6, 1000).astype(np.float32)
    if kind != "u8":
        x = np.clip(x, *levels.range)  # ONNX Runtime's signed integers go down to -128.
    assert np.allclose(levels.nearest(x), dequantized_by_onnxruntime(x, levels), atol=1e-6)


def test_centred_pixels_lose_nothing() -> None:
    pixels = np.arange(256, dtype=np.float32) - 127.5
    assert np.array_equal(Levels("u8", 1.0, 127.5).nearest(pixels), pixels)


@pytest.mark.parametrize("kind", ["s8", "e4m3"])
def test_a_weights_channels_have_scales_of_their_own(kind: Kind) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32) * [1e-3, 1, 1e3]
    found = quantize_weight(weight.astype(np.float32), kind, clip=False)
    assert found.values.dtype == DTYPES[kind]
    relative = np.abs(found.dequantized - weight).max(0) / np.abs(weight).max(0)
    assert (relative <= (0.5 / 127 if kind == "s8" else 1 / 16)).all()
    assert np.array_equal(found.values.astype(np.float32) * found.scale, found.dequantized)


def test_a_clipped_weight_is_nearer_in_what_it_costs() -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((512, 8)).astype(np.float32)
    weight[0] = 7.0
    importance = np.ones(512, np.float32)
    importance[0] = 1e-6  # Its input is almost always zero.

    def cost(clip: bool) -> np.ndarray:
        found = quantize_weight(weight, "s8", importance, clip=clip)
        return importance @ np.square(found.dequantized - weight)

    assert (cost(clip=True) <= cost(clip=False)).all()
    assert cost(clip=True).sum() < 0.8 * cost(clip=False).sum()


def test_zeros_stay_zeros() -> None:
    found = quantize_weight(np.zeros((4, 2), np.float32), "s8")
    assert not found.dequantized.any()
    assert Levels.of("u8", 0, 0).nearest(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
