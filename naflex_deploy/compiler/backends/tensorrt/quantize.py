"""Inserts Q/DQ for TensorRT: symmetric int8, or FP8 E4M3, on both inputs of linear layers.

An activation has one scale, a weight one for each output channel, and zero points are always 0:

    int8: scale = amax / 127        fp8: scale = amax / 448

Weights are stored quantised. Scales have the data type that their values are dequantised to, so that the other types
of the graph stay as the conversion of precision left them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.quantize.layers import layer_of
from naflex_deploy.compiler.quantize.levels import DTYPES, Kind, Levels, Weight
from naflex_deploy.compiler.quantize.quantization import QuantizedLayer

KINDS: Mapping[str, Kind] = {"int8": "s8", "fp8": "e4m3"}
"""The kind of levels for activations, by precision."""

LINEAR = "Gemm"


def quantize(graph: gs.Graph, layers: Mapping[str, QuantizedLayer]) -> int:
    """Insert Q/DQ before linear layers in place; returns the number of layers.

    Args:
        graph: A topologically sorted graph whose precision has been converted.
        layers: The quantised layers, by name.
    """
    activations: dict[int, gs.Variable] = {}
    nodes = [node for node in graph.nodes if node.op == LINEAR and layer_of(node) in layers]
    for node in nodes:
        layer = layers[layer_of(node)]
        source, weight = node.inputs[:2]
        if id(source) not in activations:
            activations[id(source)] = _activation(graph, source, layer.levels)
        dequantized = _weight(graph, weight, layer.weight)
        node.inputs = [
            activations[id(source)],
            dequantized,
            gs.Constant(f"{weight.name}.bias", layer.bias.astype(weight.dtype)),
        ]
        node.attrs.pop("transB", None)
    graph.cleanup().toposort()
    return len(nodes)


def _activation(graph: gs.Graph, source: gs.Tensor, levels: Levels) -> gs.Variable:
    dtype = DTYPES[levels.kind]
    scale = gs.Constant(f"{source.name}.scale", np.array(levels.scale).astype(source.dtype))
    zero = gs.Constant(f"{source.name}.zero", np.zeros((), dtype))
    quantized = gs.Variable(f"{source.name}.{levels.kind}", dtype, source.shape)
    back = gs.Variable(f"{source.name}.dequantized", source.dtype, source.shape)
    graph.nodes.append(gs.Node("QuantizeLinear", quantized.name, {}, [source, scale, zero], [quantized]))
    graph.nodes.append(gs.Node("DequantizeLinear", back.name, {}, [quantized, scale, zero], [back]))
    return back


def _weight(graph: gs.Graph, weight: gs.Constant, found: Weight) -> gs.Variable:
    stored = gs.Constant(f"{weight.name}.stored", found.values)
    scales = gs.Constant(f"{weight.name}.scale", found.scale.astype(weight.dtype))
    zeros = gs.Constant(f"{weight.name}.zero", np.zeros(found.scale.shape, found.values.dtype))
    back = gs.Variable(f"{weight.name}.dequantized", weight.dtype, list(found.values.shape))
    graph.nodes.append(gs.Node("DequantizeLinear", back.name, {"axis": 1}, [stored, scales, zeros], [back]))
    return back
