"""Channels of an activation brought to one size and around zero, and the weights that read them changed to match.

    ((x - z) / s)·(diag(s)·W) + (b + z·W) = x·W + b

with one s for each channel of x after Xiao et al., "SmoothQuant", ICML 2023, and one z after Wei et al., "Outlier
Suppression+", EMNLP 2023. Both cost nothing where what makes x can take them in: a LayerNorm; the value projection
for what attention returns, as attention mixes tokens and not channels, with weights that sum to one; for s alone, also
the linear branch of a gated MLP. GELU and SiLU do not commute with either: behind them s is one product more for each
value, which is worth it where few channels stand out far.
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
    """What becomes of an activation: ``(x - shift) / scale``, [D] each."""

    scale: Float32
    shift: Float32

    @classmethod
    def of(cls, seen: SiteObservation, weight: Float32, alpha: float, *, shifts: bool) -> Smoothing:
        """Balance activations and weights.

        Each channel is divided by ``amax|x|^α / amax|W|^(1-α)``, the geometric mean of which is 1; by 1 where it is
        always the same, or nothing reads it.

        Args:
            seen: Of the activation.
            weight: [D] largest weight that reads each channel.
            alpha: 0 leaves weights of one size, 1 activations.
            shifts: Whether to move each channel's range around zero.
        """
        shift = (seen.channel_low + seen.channel_high) / 2 if shifts else np.zeros_like(seen.channel_low)
        largest = np.maximum(seen.channel_high - shift, shift - seen.channel_low)
        used = (largest > 0) & (weight > 0)
        x, w = np.where(used, largest, 1).astype(np.float64), np.where(used, weight, 1).astype(np.float64)
        logarithm = alpha * np.log(x) - (1 - alpha) * np.log(w)
        mean = logarithm[used].mean() if used.any() else 0.0
        return cls(np.where(used, np.exp(logarithm - mean), 1).astype(np.float32), shift.astype(np.float32))

    def applied(self, x: Float32) -> Float32:
        """[N, D] → [N, D]."""
        return (x - self.shift) / self.scale


@dataclass(frozen=True)
class Absorber:
    """A LayerNorm or linear layer that takes a smoothing in.

    Attributes:
        shifts: Whether it can move channels, too.
    """

    node: gs.Node
    shifts: bool


def absorber(model: Model, group: Group) -> Absorber | None:
    """What can take in the smoothing of a group's input; ``None`` where nothing can."""
    node = producer(group.x)
    readers = {id(layer.node) for layer in group.layers.values()}
    if node is None or group.x in model.graph.outputs or {id(reader) for reader in group.x.outputs} != readers:
        return None
    if node.op == "LayerNormalization":
        return Absorber(node, shifts=True)
    (name, *_) = group.layers
    scope, _, last = name.rpartition(".")
    layers = {name: layer.node for name, layer in linear_layers(model).items()}
    norms = {layer_of(norm): norm for norm in model.graph.nodes if norm.op == "LayerNormalization"}
    gated = node.op == "Mul"
    if last == "out" and (before := norms.get(f"{scope}.attention_norm") or layers.get(f"{scope}.value")):
        return Absorber(before, shifts=not gated)
    if last == "fc2" and gated and (before := layers.get(f"{scope}.fc1")):
        return Absorber(before, shifts=False)
    return None


def fold(model: Model, smoothings: Mapping[str, Smoothing]) -> None:
    """Smooth the inputs of layers, in place.

    Args:
        model: A graph as exported.
        smoothings: By site.
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
    """Let a layer read a smoothed input: its weight grows, its bias takes the shift back."""
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
    """Let a LayerNorm or a layer return a smoothed output."""
    x, old = node.inputs[:2]
    scale = smoothing.scale[:, None] if node.attrs.get("transB", 0) else smoothing.scale
    moved = (_bias(node, len(smoothing.scale)) - smoothing.shift) / smoothing.scale
    node.inputs = [
        x,
        model.constant(f"{old.name}.smoothed", (old.values / scale).astype(old.values.dtype)),
        model.constant(f"{old.name}.bias.smoothed", moved.astype(old.values.dtype)),
    ]


def _bias(node: gs.Node, width: int) -> Float32:
    """[width], zeros where a node has none."""
    return np.asarray(node.inputs[2].values if len(node.inputs) > 2 else np.zeros(width), np.float32)


def _divide_before(model: Model, group: Group, scale: Float32) -> None:
    """Divide what some layers read, before them."""
    scaled = model.variable(f"{group.x.name}.scaled")
    scaled.dtype, scaled.shape = group.x.dtype, group.x.shape
    factor = model.constant(f"{group.x.name}.factor", (1 / scale).astype(np.float32))
    model.graph.nodes.append(gs.Node("Mul", f"{group.site}/Mul", {}, [group.x, factor], [scaled]))
    for layer in group.layers.values():
        layer.node.inputs[0] = scaled
