"""Linear layers by the module they came from, grouped by the tensor they read."""

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
    """Layers that read one tensor, such as query, key and value of a block.

    Attributes:
        x: [T, D] what they read.
        layers: By name, such as ``blocks.3.query``, in the order of the graph.
    """

    x: gs.Tensor
    layers: Mapping[str, Linear]

    @property
    def site(self) -> str:
        """The name of ``x``: that of the input of the first layer."""
        return site_of(next(iter(self.layers)))


def site_of(layer: str) -> str:
    """The name of a layer's input: ``blocks.3.mlp.fc1.input``."""
    return f"{layer}.input"


def layer_of(node: gs.Node) -> str:
    """The name of the layer that a node computes: that of the module it was traced from."""
    scope: str = node.name.rpartition("/")[0]
    return scope


def linear_layers(model: Model) -> dict[str, Linear]:
    """Every layer of constant weights, by name."""
    found: dict[str, Linear] = {}
    for node in model.graph.nodes:
        layer = linear_of(node.outputs[0]) if node.op == "Gemm" else None
        if layer is not None:
            found.setdefault(layer_of(node), layer)
    return found


def groups(model: Model) -> list[Group]:
    """Every layer of constant weights, with those that read the same tensor."""
    by_tensor: dict[int, dict[str, Linear]] = {}
    for name, layer in linear_layers(model).items():
        by_tensor.setdefault(id(layer.x), {})[name] = layer
    return [Group(next(iter(layers.values())).x, layers) for layers in by_tensor.values()]


def pixels_of(model: Model, x: gs.Tensor) -> gs.Tensor | None:
    """The uint8 pixels that a tensor holds, centred; ``None`` where it holds something else."""
    node = producer(x)
    if node is None or node.op != "Sub" or scalar(node.inputs[1]) != PIXEL_CENTRE:
        return None
    cast, pixels = producer(node.inputs[0]), model.input(Role.PATCHES)
    if cast is None or cast.op != "Cast" or cast.inputs[0] is not pixels or pixels.dtype != np.uint8:
        return None
    return pixels
