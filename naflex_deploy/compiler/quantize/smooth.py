"""Smooths activations: scales channels to a similar size, shifts them around zero, and adapts the weights to match.

    ((x - z) / s)·(diag(s)·W) + (b + z·W) = x·W + b

Each channel of x has a scale s after Xiao et al., "SmoothQuant", ICML 2023, and a shift z after Wei et al., "Outlier
Suppression+", EMNLP 2023. Both cost nothing if the operator that computes x can absorb them. A LayerNorm can, and so
can the value projection before the output projection, because attention mixes tokens, not channels, with weights that
sum to one. The linear branch of a gated MLP can absorb s. GELU and SiLU commute with neither: after them, s costs one
product per value, which is worth it if few channels have far larger values than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model, producer
from naflex_deploy.compiler.quantize.layers import Group, groups, layer_of, linear_layers
from naflex_deploy.compiler.quantize.levels import Float32
from naflex_deploy.compiler.quantize.observation import SiteObservation


@dataclass(frozen=True, eq=False)
class Smoothing:
    """A smoothing of an activation, ``(x - shift) / scale`` with [D] values each."""

    scale: Float32
    shift: Float32

    @classmethod
    def of(cls, seen: SiteObservation, weight: Float32, alpha: float, *, shifts: bool) -> Smoothing:
        """Balance activations and weights.

        Each channel is divided by ``amax|x|^α / amax|W|^(1-α)``, normalised to a geometric mean of 1; channels that are
        constant or that nothing reads are left as they are.

        Args:
            seen: Observation of the activation.
            weight: Largest magnitude of the weights that read each channel, [D].
            alpha: Strength of the smoothing: 0 equalises the weights, 1 the activations.
            shifts: Whether to shift each channel's range around zero.
        """
        shift = (seen.channel_low + seen.channel_high) / 2 if shifts else np.zeros_like(seen.channel_low)
        largest = np.maximum(seen.channel_high - shift, shift - seen.channel_low)
        used = (largest > 0) & (weight > 0)
        x, w = np.where(used, largest, 1).astype(np.float64), np.where(used, weight, 1).astype(np.float64)
        logarithm = alpha * np.log(x) - (1 - alpha) * np.log(w)
        mean = logarithm[used].mean() if used.any() else 0.0
        return cls(np.where(used, np.exp(logarithm - mean), 1).astype(np.float32), shift.astype(np.float32))

    def applied(self, x: Float32) -> Float32:
        """Smooth an activation, [N, D]."""
        return (x - self.shift) / self.scale


@dataclass(frozen=True)
class Absorber:
    """A LayerNorm or linear layer that absorbs a smoothing.

    Attributes:
        node: The node whose weights absorb it.
        shifts: Whether it can absorb shifts, too.
    """

    node: gs.Node
    shifts: bool


def absorber(model: Model, group: Group) -> Absorber | None:
    """The layer that can absorb the smoothing of a group's input; ``None`` if there is none."""
    node = producer(group.x)
    readers = {id(layer.node) for layer in group.layers.values()}
    if node is None or group.x in model.graph.outputs or {id(reader) for reader in group.x.outputs} != readers:
        return None
    if node.op == "LayerNormalization":
        return Absorber(node, shifts=True)
    (name, *_) = group.layers
    scope, _, last = name.rpartition(".")
    linear = linear_layers(model)
    gated = node.op == "Mul"
    if last == "out":
        norms = {layer_of(norm): norm for norm in model.graph.nodes if norm.op == "LayerNormalization"}
        value = linear.get(f"{scope}.value")
        before = norms.get(f"{scope}.attention_norm") or (value and value.node)
        return Absorber(before, shifts=not gated) if before else None
    # SiLU multiplies, too, but by a value that its own input decides.
    fc1 = linear.get(f"{scope}.fc1")
    if last == "fc2" and gated and fc1 and len(fc1.y.outputs) == 1:
        return Absorber(fc1.node, shifts=False)
    return None


def fold(model: Model, smoothings: Mapping[str, Smoothing]) -> None:
    """Smooth the inputs of layers, in place.

    Args:
        model: The exported graph.
        smoothings: Smoothings by site.
    """
    for group in groups(model):
        if (smoothing := smoothings.get(group.site)) is None:
            continue
        found = absorber(model, group)
        for layer in group.layers.values():
            _read(model, layer.node, smoothing)
        if found is None:
            _divide_before(model, group, smoothing.scale)
        else:
            _make(model, found.node, smoothing)


def _read(model: Model, node: gs.Node, smoothing: Smoothing) -> None:
    """Make a layer read a smoothed input: its weight is scaled, and its bias undoes the shift."""
    x, old = node.inputs[:2]
    turned = bool(node.attrs.get("transB", 0))
    weight = old.values.T if turned else old.values
    moved = _bias(node, weight.shape[1]) + smoothing.shift.astype(np.float64) @ weight
    grown = weight * smoothing.scale[:, None]
    node.inputs = [
        x,
        model.constant(f"{old.name}.smoothed", (grown.T if turned else grown).astype(weight.dtype)),
        model.constant(f"{old.name}.bias.smoothed", moved.astype(weight.dtype)),
    ]


def _make(model: Model, node: gs.Node, smoothing: Smoothing) -> None:
    """Make a LayerNorm or a linear layer return a smoothed output."""
    x, old = node.inputs[:2]
    scale = smoothing.scale[:, None] if node.attrs.get("transB", 0) else smoothing.scale
    moved = (_bias(node, len(smoothing.scale)) - smoothing.shift) / smoothing.scale
    node.inputs = [
        x,
        model.constant(f"{old.name}.smoothed", (old.values / scale).astype(old.values.dtype)),
        model.constant(f"{old.name}.bias.smoothed", moved.astype(old.values.dtype)),
    ]


def _bias(node: gs.Node, width: int) -> Float32:
    """The bias of a node, [width]; zeros if it has none."""
    return np.asarray(node.inputs[2].values if len(node.inputs) > 2 else np.zeros(width), np.float32)


def _divide_before(model: Model, group: Group, scale: Float32) -> None:
    """Insert a division of the input of some layers."""
    scaled = model.variable(f"{group.x.name}.scaled")
    scaled.dtype, scaled.shape = group.x.dtype, group.x.shape
    factor = model.constant(f"{group.x.name}.factor", (1 / scale).astype(np.float32))
    model.graph.nodes.append(gs.Node("Mul", f"{group.site}/Mul", {}, [group.x, factor], [scaled]))
    for layer in group.layers.values():
        layer.node.inputs[0] = scaled
