"""What all channels of the residual stream have in common is invisible: every reader is a LayerNorm, and takes it out.

So it may be taken out of the layers that write to the stream already: each row of such a weight loses its mean over
output channels. Where a few tokens carry a large value in all channels, the weights that make it no longer stand out
from the others, and a scale for each output channel is spent on what has an effect.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model
from naflex_deploy.compiler.quantize.layers import linear_layers


def centre(model: Model, names: Collection[str]) -> list[str]:
    """Centre the output of those layers that LayerNorms alone see, in place; returns their names."""
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
    """Whether only sums and LayerNorms read a tensor, and the sums that it goes into."""
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
