"""Q/DQ for OpenVINO: activations of unsigned eight bits with a zero point, weights of signed eight bits.

    x' = DequantizeLinear(QuantizeLinear(x))     u8, one scale and zero point, shared by query, key and value
    W' = DequantizeLinear(W)                     s8, a scale for each output channel
    y  = Gemm(x', W', b)

OpenVINO folds both into one product of integers. Everything else runs in the precision of its hint.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model, label, producer
from naflex_deploy.compiler.quantize.layers import linear_layers
from naflex_deploy.compiler.quantize.quantization import QuantizedLayer


def quantize(model: Model, layers: Mapping[str, QuantizedLayer]) -> int:
    """Rewrite linear layers, in place; returns how many."""
    inputs: dict[int, gs.Variable] = {}
    found = [(name, linear) for name, linear in linear_layers(model).items() if name in layers]
    for name, linear in found:
        layer = layers[name]
        if id(linear.x) not in inputs:
            read_by = {id(other.node) for _, other in found if other.x is linear.x}
            normalised = producer(linear.x)
            alone = all(id(reader) in read_by for reader in linear.x.outputs) and linear.x not in model.graph.outputs
            if normalised is not None and normalised.op == "LayerNormalization" and alone:
                inputs[id(linear.x)] = _normalised(model, normalised, layer)
            else:
                inputs[id(linear.x)] = _activation(model, linear.x, layer)
        weight = _weight(model, name, layer)
        bias = model.constant(f"{name}.bias.corrected", layer.bias)
        linear.node.outputs.clear()
        nodes = model.graph.nodes
        nodes.append(gs.Node("Gemm", label(linear.node, "Gemm"), {}, [inputs[id(linear.x)], weight, bias], [linear.y]))
    model.tidy()
    return len(found)


def _normalised(model: Model, node: gs.Node, layer: QuantizedLayer) -> gs.Variable:
    """The rounded output of a LayerNormalization, which is computed as [1, T, D].

    OpenVINO joins rounding to the operator before it for tensors of three axes, and rounds those of two in a pass of
    its own in float32, which took 5 % of a pack.
    """
    x, (y,) = node.inputs[0], node.outputs
    axis = model.constant(f"{node.name}.axis", np.array([0], np.int64))
    batch, normal = (gs.Variable(f"{y.name}.{what}", np.float32, [1, *y.shape]) for what in ("batch", "normal"))
    model.graph.nodes.append(gs.Node("Unsqueeze", f"{node.name}/Unsqueeze", {}, [x, axis], [batch]))
    rest = [batch, *node.inputs[1:]]
    model.graph.nodes.append(
        gs.Node("LayerNormalization", label(node, "LayerNormalization"), dict(node.attrs), rest, [normal])
    )
    back = _activation(model, normal, layer)
    flat = gs.Variable(f"{y.name}.flat", np.float32, y.shape)
    model.graph.nodes.append(gs.Node("Squeeze", f"{node.name}/Squeeze", {}, [back, axis], [flat]))
    return flat


def _activation(model: Model, x: gs.Tensor, layer: QuantizedLayer) -> gs.Variable:
    scale = model.constant(f"{x.name}.scale", np.array(layer.levels.scale, np.float32))
    zero = model.constant(f"{x.name}.zero", np.array(layer.levels.zero, np.uint8))
    q = gs.Variable(f"{x.name}.u8", np.uint8, x.shape)
    back = gs.Variable(f"{x.name}.dequantized", np.float32, x.shape)
    model.graph.nodes.append(gs.Node("QuantizeLinear", f"{x.name}/QuantizeLinear", {}, [x, scale, zero], [q]))
    model.graph.nodes.append(gs.Node("DequantizeLinear", f"{x.name}/DequantizeLinear", {}, [q, scale, zero], [back]))
    return back


def _weight(model: Model, name: str, layer: QuantizedLayer) -> gs.Variable:
    values = model.constant(f"{name}.weight.s8", layer.weight.values)
    scale = model.constant(f"{name}.weight.scale", layer.weight.scale.astype(np.float32))
    back = gs.Variable(f"{name}.weight.dequantized", np.float32, list(layer.weight.values.shape))
    node = gs.Node("DequantizeLinear", f"{name}/DequantizeLinear", {"axis": 1}, [values, scale], [back])
    model.graph.nodes.append(node)
    return back
