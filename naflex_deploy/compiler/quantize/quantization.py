"""What a calibration makes of a model: every quantised layer in numbers, for a lowering to write down."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from naflex_deploy.compiler.model.packed_vit import PIXEL_CENTRE
from naflex_deploy.compiler.passes.graphs import Array, Model
from naflex_deploy.compiler.passes.linear import Linear
from naflex_deploy.compiler.quantize.centre import centre
from naflex_deploy.compiler.quantize.layers import Group, groups, pixels_of
from naflex_deploy.compiler.quantize.levels import Float32, Kind, Levels, Weight, quantize_weight, weight_kind
from naflex_deploy.compiler.quantize.rounding import compensated
from naflex_deploy.compiler.quantize.search import Choice, search
from naflex_deploy.compiler.quantize.smooth import Smoothing, absorber, fold
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.errors import CalibrationError

EMBEDDING = "embed"
"""The layer that projects patches."""

PIXELS = Levels("u8", 1.0, PIXEL_CENTRE)
"""Pixels are integers of eight bits already."""


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """``y = nearest(x)·weight + bias``.

    Attributes:
        levels: Of the input.
        weight: [D, E].
        bias: [E] float32, the mean error of the rounding taken out.
    """

    levels: Levels
    weight: Weight
    bias: Float32


@dataclass(frozen=True, eq=False)
class Quantization:
    """A quantised model: what changes in its float graph, and the layers that are no longer float.

    Attributes:
        layers: By name.
        smoothings: Of activations, by site.
        centred: Layers whose output lost its mean over channels.
        choices: By site, for the record.
    """

    layers: Mapping[str, QuantizedLayer]
    smoothings: Mapping[str, Smoothing] = field(default_factory=dict)
    centred: Collection[str] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def prepare(self, model: Model) -> None:
        """Bring the exported graph, in place, to the float weights that `layers` were made of."""
        centre(model, self.centred)
        fold(model, self.smoothings)

    def record(self) -> list[dict[str, object]]:
        """For the manifest."""
        alphas = {site: choice.alpha for site, choice in self.choices.items() if choice.alpha is not None}
        return [
            {"pass": "centre", "changed": len(self.centred), "refused": {}},
            {"pass": "smooth", "changed": len(self.smoothings), "refused": {}, "alpha": alphas},
        ]


def quantize(
    model: Model, spec: QuantSpec, kind: Kind, sites: Collection[str], activations: Mapping[str, Float32]
) -> Quantization:
    """Search, fold and round.

    Args:
        model: The exported graph. It is changed.
        spec: The calibration.
        kind: Of the activations' levels.
        sites: To quantise, see `default_sites`.
        activations: [N, D] rows of calibration images, for each of these.

    Raises:
        CalibrationError: A site was not observed.
    """
    chosen = [group for group in groups(model) if group.site in sites]
    if missing := [group.site for group in chosen if group.site not in spec.sites]:
        raise CalibrationError(
            f"the calibration has nothing about {', '.join(missing)}", hint="calibrate again with this version"
        )
    centred = centre(model, [name for group in chosen for name in group.layers])
    choices = {group.site: _choose(model, group, spec, kind, activations[group.site]) for group in chosen}
    smoothings = {site: choice.smoothing for site, choice in choices.items() if choice.smoothing is not None}
    fold(model, smoothings)
    layers: dict[str, QuantizedLayer] = {}
    for group in groups(model):
        if choice := choices.get(group.site):
            rows = activations[group.site]
            x = rows if choice.smoothing is None else choice.smoothing.applied(rows)
            layers |= {name: _round(layer, x, choice.levels) for name, layer in group.layers.items()}
    return Quantization(layers, smoothings, centred, choices)


def plain(model: Model, found: Mapping[str, tuple[float, float]], kind: Kind) -> Quantization:
    """Every layer with a range, as it is: nothing folded, nothing clipped, no bias corrected.

    Args:
        found: (low, high) by site.
    """
    layers = {}
    for group in groups(model):
        if group.site in found:
            levels = Levels.of(kind, *found[group.site])
            for name, layer in group.layers.items():
                weight = quantize_weight(_float(layer.weight), weight_kind(kind), clip=False)
                layers[name] = QuantizedLayer(levels, weight, _float(layer.bias))
    return Quantization(layers)


def _choose(model: Model, group: Group, spec: QuantSpec, kind: Kind, x: Float32) -> Choice:
    if kind == "u8" and pixels_of(model, group.x) is not None:
        return Choice(PIXELS, None, None, np.zeros(0))
    weights = [_float(layer.weight) for layer in group.layers.values()]
    found = absorber(model, group)
    shifts = found is not None and found.shifts
    return search(spec.sites[group.site], x, weights, kind, spec.method, free=found is not None, shifts=shifts)


def _round(layer: Linear, x: Float32, levels: Levels) -> QuantizedLayer:
    exact, rounded = _float(layer.weight), levels.nearest(x)
    weight = quantize_weight(exact, weight_kind(levels.kind), x.var(0))
    weight = compensated(exact, weight, np.cov(rounded.T.astype(np.float64)))
    error = x.mean(0) @ exact - rounded.mean(0) @ weight.dequantized
    return QuantizedLayer(levels, weight, _float(layer.bias) + error)


def _float(values: Array) -> Float32:
    return np.asarray(values, np.float32)
