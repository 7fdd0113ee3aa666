"""Replaces any normalisation of pixels by the subtraction of 127.5, and folds the rest into the projection.

With z = scale·x + shift for each of a patch's values, W·z + b = (W·scale)·(x - 127.5) + b + W·(shift + 127.5·scale).
Centred pixels are exact in float16 and bfloat16; raw ones would push the folded weights below float16's normal range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.model.packed_vit import PIXEL_CENTRE
from naflex_deploy.compiler.passes.graphs import Array, Model, evaluate, label, producer
from naflex_deploy.compiler.passes.linear import Linear, add_linear, linear_of
from naflex_deploy.core.pack import Role

ELEMENTWISE = frozenset({"Sub", "Add", "Mul", "Div", "Cast"})


@dataclass(frozen=True)
class Found:
    """A projection, and the scale and shift that pixels undergo before it."""

    projection: Linear
    pixels: gs.Tensor
    scale: Array
    shift: Array


def match(model: Model) -> Iterator[gs.Node]:
    """The first linear layers that pixels reach."""
    patches = model.input(Role.PATCHES)
    frontier = list(patches.outputs) if patches is not None else []
    while frontier:
        node = frontier.pop()
        if node.op in ("Gemm", "MatMul"):
            biased = [n for n in node.outputs[0].outputs if n.op == "Add" and linear_of(n.outputs[0])]
            yield biased[0] if biased else node
        elif node.op in ELEMENTWISE:
            frontier += [consumer for tensor in node.outputs for consumer in tensor.outputs]


def check(model: Model, node: gs.Node) -> Found | str:
    """Check that each pixel is only scaled and shifted before the layer."""
    projection = linear_of(node.outputs[0])
    if projection is None:
        return "it is not a linear layer with constant weights"
    patches = model.input(Role.PATCHES)
    chain = _chain(projection.x)
    if patches is None or not chain or patches not in chain[0].inputs:
        return "its input is not computed from pixels only"
    width = len(projection.weight)
    probes = [np.full((1, width), value, patches.dtype) for value in (0, 1, 255)]
    values = [evaluate(projection.x, [(patches, probe)], model.graph.opset) for probe in probes]
    if any(isinstance(value, str) for value in values):
        return next(value for value in values if isinstance(value, str))
    zero, one, white = (np.asarray(value, np.float64).reshape(-1) for value in values)
    scale = one - zero
    if not np.allclose(zero + 255 * scale, white, rtol=1e-4, atol=1e-4):
        return "pixels are not only scaled and shifted"
    scale = (white - zero) / 255
    if np.allclose(scale, 1) and np.allclose(zero, -PIXEL_CENTRE):
        return "its pixels are already centred"
    cast = chain[0]
    pixels = cast.outputs[0] if cast.op == "Cast" else patches
    return Found(projection, pixels, scale, zero)


def rewrite(model: Model, found: Found) -> str:
    """Subtract the centre from the pixels, and fold their normalisation into the projection."""
    layer = found.projection
    weight = layer.weight * found.scale[:, None]
    bias = layer.bias + (found.shift + PIXEL_CENTRE * found.scale) @ layer.weight.astype(np.float64)
    dtype = layer.weight.dtype
    centred = model.variable(f"{found.pixels.name}_centred")
    centre = model.constant("pixel_centre", np.array(PIXEL_CENTRE, dtype))
    model.graph.nodes.append(gs.Node("Sub", label(layer.node, "Sub"), {}, [found.pixels, centre], [centred]))
    layer.node.outputs.clear()
    return str(add_linear(model, centred, weight.astype(dtype), bias.astype(dtype), layer.y, layer.node).name)


def _chain(tensor: gs.Tensor) -> list[gs.Node]:
    """The elementwise operators with constants that lead to a tensor, first to last."""
    nodes: list[gs.Node] = []
    while (node := producer(tensor)) is not None and node.op in ELEMENTWISE:
        nodes.insert(0, node)
        variables = [source for source in node.inputs if not isinstance(source, gs.Constant)]
        if len(variables) != 1:
            return []
        tensor = variables[0]
    return nodes
