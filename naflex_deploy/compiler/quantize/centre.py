"""Removes the mean over channels from the layers that write to the residual stream, where it has no effect.

Every reader of the stream is a LayerNorm, which subtracts the mean over channels. So each row of a weight that writes
to the stream can lose its mean over output channels beforehand. If a few tokens carry a large value in all channels,
the weights that produce it then no longer stand out, and the scale of each output channel fits the values that matter.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model
from naflex_deploy.compiler.quantize.layers import linear_layers


def centre(model: Model, names: Collection[str]) -> list[str]:
    """Centre the output of those layers that only LayerNorms see, in place; returns their names."""
    found = {name: layer for name, layer in linear_layers(model).items() if name in names}
    centred = [name for name, layer in found.items() if _seen_by_norms_alone(model, layer.y)]
    for name in centred:
        node = found[name].node
        outputs = 0 if node.attrs.get("transB", 0) else 1
        for index, axis in ((1, outputs), (2, -1))[: len(node.inputs) - 1]:
            old = node.inputs[index]
            values = old.values - old.values.mean(axis, keepdims=True, dtype=np.float64)
            node.inputs[index] = model.constant(f"{old.name}.centred", values.astype(old.values.dtype))
    return centred


def _seen_by_norms_alone(model: Model, tensor: gs.Tensor) -> bool:
    """Whether a tensor, and every sum that it enters, is read only by additions and LayerNorms."""
    pending, seen = [tensor], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current in model.graph.outputs:
            return False
        for reader in current.outputs:
            if reader.op == "Add":
                pending += reader.outputs
            elif reader.op != "LayerNormalization":
                return False
    return True
