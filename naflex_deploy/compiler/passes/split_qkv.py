"""Replaces a linear layer whose columns are split into three parts by a linear layer for each part.

The rows of each output are then contiguous, so that the rows of one image can be sliced without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Array, Model
from naflex_deploy.compiler.passes.linear import Linear, add_linear, linear_of


@dataclass(frozen=True)
class Found:
    """A layer, and the columns at which it is split."""

    layer: Linear
    split: gs.Node
    cuts: Array


def match(model: Model) -> Iterator[gs.Node]:
    """Every split into three parts."""
    return (node for node in model.graph.nodes if node.op == "Split" and len(node.outputs) == 3)


def check(model: Model, node: gs.Node) -> Found | str:
    """Check that it splits the columns of a linear layer that nothing else uses."""
    layer = linear_of(node.inputs[0])
    if layer is None:
        return "its input is not the output of a linear layer"
    if len(layer.y.outputs) > 1 or layer.y in model.graph.outputs:
        return "the layer's whole output is also used"
    if node.attrs.get("axis", 0) not in (-1, 1):
        return "it splits rows"
    width = layer.weight.shape[1]
    if len(node.inputs) > 1 and not isinstance(node.inputs[1], gs.Constant):
        return "the sizes of its parts are computed"
    sizes = node.inputs[1].values if len(node.inputs) > 1 else node.attrs.get("split")  # an attribute below opset 13
    if sizes is None and width % 3:
        return f"its {width} columns do not divide into three equal parts"
    return Found(layer, node, np.cumsum(np.full(3, width // 3) if sizes is None else sizes)[:-1])


def rewrite(model: Model, found: Found) -> str:
    """Replace the layer and the split by three layers."""
    layer, outputs = found.layer, list(found.split.outputs)
    found.split.outputs.clear()
    weights, biases = np.split(layer.weight, found.cuts, axis=1), np.split(layer.bias, found.cuts)
    for y, weight, bias in zip(outputs, weights, biases, strict=True):
        add_linear(model, layer.x, weight, bias, y, layer.node)
    return str(layer.node.name)
