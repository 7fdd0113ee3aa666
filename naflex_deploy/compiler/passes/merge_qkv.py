"""Merges the linear layers of an attention's query, key and value into one layer and a split.

One large product replaces three, which pays for engines that slice at no cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model, label
from naflex_deploy.compiler.passes.linear import Linear, add_linear, linear_of


def match(model: Model) -> Iterator[gs.Node]:
    """Every fused attention."""
    return (node for node in model.graph.nodes if node.op == "PackedAttention")


def check(model: Model, node: gs.Node) -> list[Linear] | str:
    """Check that the three inputs are linear layers of the same tokens."""
    layers = [linear_of(tensor) for tensor in node.inputs[:3]]
    for name, layer in zip(("query", "key", "value"), layers, strict=True):
        if layer is None:
            return f"its {name} is not the output of a linear layer"
        if len(layer.y.outputs) > 1 or layer.y in model.graph.outputs:
            return f"its {name} is also used elsewhere"
        if layer.x is not layers[0].x:  # type: ignore[union-attr]
            return f"its {name} does not come from the same tokens as its query"
    return [layer for layer in layers if layer]


def rewrite(model: Model, layers: list[Linear]) -> str:
    """Replace the three layers by one layer and a split."""
    first = layers[0]
    outputs = [layer.y for layer in layers]
    for layer in layers:
        layer.node.outputs.clear()
    merged = model.variable(f"{first.y.name}_qkv")
    weight = np.concatenate([layer.weight for layer in layers], axis=1)
    bias = np.concatenate([layer.bias for layer in layers])
    node = add_linear(model, first.x, weight, bias, merged, first.node)
    sizes = model.constant("qkv_sizes", np.array([layer.weight.shape[1] for layer in layers], np.int64))
    model.graph.nodes.append(gs.Node("Split", label(first.node, "Split"), {"axis": -1}, [merged, sizes], outputs))
    return str(node.name)
