"""Q/DQ for TensorRT: symmetric int8, or FP8 E4M3, on both inputs of linear layers.

One scale for an activation, one for each output channel of a weight, zero points constant 0:

    int8: scale = amax / 127        fp8: scale = amax / 448

Weights are stored quantised. The scales have the type of what they scale back to, so that the graph's other types
stay as the conversion of precision left them.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

TYPES = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}
LARGEST = {"int8": 127.0, "fp8": 448.0}

LINEAR = "Gemm"


def site(node: gs.Node) -> str:
    """The name by which calibration knows the input of a linear layer: ``blocks.3.mlp.fc1.input``."""
    return f"{node.name.rpartition('/')[0]}.input"


def quantize(graph: gs.Graph, amax: Mapping[str, float], precision: str) -> int:
    """Put Q/DQ before every linear layer whose input has a range, in place; returns how many.

    Args:
        graph: Sorted, its precision converted.
        amax: Largest magnitude of the activation at each site.
        precision: ``int8`` or ``fp8``.
    """
    activations: dict[int, gs.Variable] = {}
    layers = [node for node in graph.nodes if node.op == LINEAR and amax.get(site(node), 0) > 0]
    for node in layers:
        source, weight = node.inputs[:2]
        if id(source) not in activations:
            activations[id(source)] = _activation(graph, source, amax[site(node)], precision)
        node.inputs[0] = activations[id(source)]
        node.inputs[1] = _weight(graph, node, weight, precision)
    graph.cleanup().toposort()
    return len(layers)


def _activation(graph: gs.Graph, source: gs.Tensor, amax: float, precision: str) -> gs.Variable:
    scale = gs.Constant(f"{source.name}.scale", np.array(amax / LARGEST[precision]).astype(source.dtype))
    zero = gs.Constant(f"{source.name}.zero", np.zeros((), TYPES[precision]))
    quantized = gs.Variable(f"{source.name}.{precision}", TYPES[precision], source.shape)
    back = gs.Variable(f"{source.name}.dequantized", source.dtype, source.shape)
    graph.nodes.append(gs.Node("QuantizeLinear", quantized.name, {}, [source, scale, zero], [quantized]))
    graph.nodes.append(gs.Node("DequantizeLinear", back.name, {}, [quantized, scale, zero], [back]))
    return back


def _weight(graph: gs.Graph, node: gs.Node, weight: gs.Constant, precision: str) -> gs.Variable:
    axis = 0 if node.attrs.get("transB", 0) else 1
    values = np.asarray(weight.values).astype(np.float32)
    scale = np.maximum(np.abs(values).max(1 - axis), 1e-12) / LARGEST[precision]
    stored = gs.Constant(f"{weight.name}.{precision}", _cast(values / np.expand_dims(scale, 1 - axis), precision))
    scales = gs.Constant(f"{weight.name}.scale", scale.astype(weight.dtype))
    zeros = gs.Constant(f"{weight.name}.zero", np.zeros(scale.shape, TYPES[precision]))
    back = gs.Variable(f"{weight.name}.dequantized", weight.dtype, list(values.shape))
    graph.nodes.append(gs.Node("DequantizeLinear", back.name, {"axis": axis}, [stored, scales, zeros], [back]))
    return back


def _cast(values: npt.NDArray[np.float32], precision: str) -> npt.NDArray[np.generic]:
    if precision == "int8":
        values = np.rint(values)
    limit = LARGEST[precision]
    return np.clip(values, -limit, limit).astype(TYPES[precision])
