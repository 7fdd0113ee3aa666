"""Writes linear layers in 8 bits for ONNX Runtime on a CPU.

    q = QuantizeLinear(x)                                    u8, one scale and zero point, shared by query, key, value
    y = MatMulIntegerToFloat(q, W, scales, zero point, b)    s8 weights, a scale for each output channel; y is float

Both are written as the operators that run, so that no optimiser has to recognise them. Scales are constants, so that
the result of an image does not depend on the images that share its pack. Pixels are u8 already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model
from naflex_deploy.compiler.passes.linear import Linear
from naflex_deploy.compiler.quantize.layers import linear_layers, pixels_of
from naflex_deploy.compiler.quantize.levels import Levels
from naflex_deploy.compiler.quantize.quantization import QuantizedLayer

CONTRIB = "com.microsoft"
PRODUCT = "MatMulIntegerToFloat"
PRODUCTS = frozenset({PRODUCT, "MatMulInteger", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul"})
"""Operators that multiply integers."""


@dataclass(frozen=True)
class _Input:
    """An activation in 8 bits, whose value is ``scale·(q - zero - shift)``."""

    q: gs.Tensor
    scale: gs.Constant
    zero: gs.Tensor
    shift: float = 0.0


def quantize(model: Model, layers: Mapping[str, QuantizedLayer]) -> int:
    """Rewrite linear layers in place; returns how many."""
    inputs: dict[int, _Input] = {}
    found = [(name, linear) for name, linear in linear_layers(model).items() if name in layers]
    for name, linear in found:
        layer = layers[name]
        if id(linear.x) not in inputs:
            inputs[id(linear.x)] = _input(model, linear.x, layer.levels)
        _product(model, name, linear, layer, inputs[id(linear.x)])
    model.tidy()
    return len(found)


def _input(model: Model, x: gs.Tensor, levels: Levels) -> _Input:
    scale = model.constant(f"{x.name}.scale", np.array(levels.scale, np.float32))
    pixels = pixels_of(model, x)
    if pixels is not None and levels.scale == 1:
        return _Input(pixels, scale, gs.Variable.empty(), levels.zero)
    zero = model.constant(f"{x.name}.zero", np.array(levels.zero, np.uint8))
    q = model.variable(f"{x.name}.u8")
    q.dtype, q.shape = np.uint8, x.shape
    model.graph.nodes.append(gs.Node("QuantizeLinear", f"{x.name}/QuantizeLinear", {}, [x, scale, zero], [q]))
    return _Input(q, scale, zero)


def _product(model: Model, name: str, linear: Linear, layer: QuantizedLayer, x: _Input) -> None:
    weight = layer.weight
    bias = layer.bias - np.float32(x.shift * layer.levels.scale) * weight.dequantized.sum(0)
    values, scale, added = (
        model.constant(f"{name}.{what}", array)
        for what, array in (("weight.s8", weight.values), ("weight.scale", weight.scale), ("bias.corrected", bias))
    )
    linear.node.outputs.clear()
    inputs = [x.q, values, x.scale, scale, x.zero, gs.Variable.empty(), added]
    model.graph.nodes.append(gs.Node(PRODUCT, f"{name}/{PRODUCT}", {}, inputs, [linear.y], domain=CONTRIB))
