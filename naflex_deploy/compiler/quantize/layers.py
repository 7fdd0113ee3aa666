"""Finds linear layers, names them after the module they came from, and groups them by the tensor they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.model.packed_vit import PIXEL_CENTRE
from naflex_deploy.compiler.passes.graphs import Model, producer, scalar
from naflex_deploy.compiler.passes.linear import Linear, linear_of
from naflex_deploy.core.pack import Role


@dataclass(frozen=True)
class Group:
    """Layers that read the same tensor, such as query, key and value of a block.

    Attributes:
        x: The tensor that they read, [T, D].
        layers: The layers by name, such as ``blocks.3.query``, in the order of the graph.
    """

    x: gs.Tensor
    layers: Mapping[str, Linear]

    @property
    def site(self) -> str:
        """The site of ``x``, which is named after the first layer that reads it."""
        return site_of(next(iter(self.layers)))


def site_of(layer: str) -> str:
    """The name of a layer's input, such as ``blocks.3.mlp.fc1.input``."""
    return f"{layer}.input"


def layer_of(node: gs.Node) -> str:
    """The name of the layer that a node computes, which is that of the module it was traced from."""
    scope: str = node.name.rpartition("/")[0]
    return scope


def linear_layers(model: Model) -> dict[str, Linear]:
    """Every linear layer with constant weights, by name."""
    found: dict[str, Linear] = {}
    for node in model.graph.nodes:
        layer = linear_of(node.outputs[0]) if node.op == "Gemm" else None
        if layer is not None:
            found.setdefault(layer_of(node), layer)
    return found


def groups(model: Model) -> list[Group]:
    """Every linear layer with constant weights, grouped by the tensor that they read."""
    by_tensor: dict[int, dict[str, Linear]] = {}
    for name, layer in linear_layers(model).items():
        by_tensor.setdefault(id(layer.x), {})[name] = layer
    return [Group(next(iter(layers.values())).x, layers) for layers in by_tensor.values()]


def pixels_of(model: Model, x: gs.Tensor) -> gs.Tensor | None:
    """The uint8 pixels from which a tensor of centred pixels is computed; ``None`` for any other tensor."""
    node = producer(x)
    if node is None or node.op != "Sub" or scalar(node.inputs[1]) != PIXEL_CENTRE:
        return None
    cast, pixels = producer(node.inputs[0]), model.input(Role.PATCHES)
    if cast is None or cast.op != "Cast" or cast.inputs[0] is not pixels or pixels.dtype != np.uint8:
        return None
    return pixels
