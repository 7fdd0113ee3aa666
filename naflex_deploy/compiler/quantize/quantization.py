"""Turns a model and its calibration into quantised layers, which a lowering then writes into a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from naflex_deploy.compiler.model.packed_vit import PIXEL_CENTRE
from naflex_deploy.compiler.passes.graphs import Array, Model
from naflex_deploy.compiler.passes.linear import Linear
from naflex_deploy.compiler.quantize.centre import centre
from naflex_deploy.compiler.quantize.layers import Group, groups, pixels_of
from naflex_deploy.compiler.quantize.levels import Float32, Kind, Levels, Weight, quantize_weight, weight_kind
from naflex_deploy.compiler.quantize.rounding import compensated, covariance
from naflex_deploy.compiler.quantize.search import Choice, search
from naflex_deploy.compiler.quantize.smooth import Smoothing, absorber, fold
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.errors import CalibrationError

EMBEDDING = "embed"
"""The layer that projects patches."""

PIXELS = Levels("u8", 1.0, PIXEL_CENTRE)
"""The levels of pixels, which are 8-bit integers already."""


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A quantised layer, ``y = nearest(x)·weight + bias``.

    Attributes:
        levels: Levels of the input.
        weight: Quantised weight, [D, E].
        bias: Bias, [E] float32, corrected by the mean error of the rounding.
    """

    levels: Levels
    weight: Weight
    bias: Float32


@dataclass(frozen=True, eq=False)
class Quantization:
    """A quantised model: the changes to its float graph, and the layers that are quantised.

    Attributes:
        layers: Quantised layers, by name.
        smoothings: Smoothings of activations, by site.
        centred: Names of the layers whose output lost its mean over channels.
        choices: Outcome of the search at each site, for the record.
    """

    layers: Mapping[str, QuantizedLayer]
    smoothings: Mapping[str, Smoothing] = field(default_factory=dict)
    centred: Collection[str] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def prepare(self, model: Model) -> None:
        """Change the exported graph, in place, to have the float weights from which `layers` were quantised."""
        centre(model, self.centred)
        fold(model, self.smoothings)

    def record(self) -> list[dict[str, object]]:
        """The entries for the manifest."""
        alphas = {site: choice.alpha for site, choice in self.choices.items() if choice.alpha is not None}
        return [
            {"pass": "centre", "changed": len(self.centred), "refused": {}},
            {"pass": "smooth", "changed": len(self.smoothings), "refused": {}, "alpha": alphas},
        ]


def quantize(
    model: Model,
    spec: QuantSpec,
    kind: Kind,
    sites: Collection[str],
    activations: Mapping[str, Float32],
    report: Callable[[str], None] = lambda step: None,
) -> Quantization:
    """Search for smoothings and ranges, fold the smoothings, and round the weights.

    Args:
        model: The exported graph, which is changed.
        spec: The calibration.
        kind: Kind of levels for activations.
        sites: Sites to quantise, see `default_sites`.
        activations: Rows of each site's activation on calibration images, [N, D].
        report: Called with a line at the start of each search, and of each rounding.

    Raises:
        CalibrationError: A site was not observed.
    """
    chosen = [group for group in groups(model) if group.site in sites]
    if missing := [group.site for group in chosen if group.site not in spec.sites]:
        raise CalibrationError(
            f"the calibration has no observation of {', '.join(missing)}", hint="calibrate again with this version"
        )
    centred = centre(model, [name for group in chosen for name in group.layers])
    choices: dict[str, Choice] = {}
    for number, group in enumerate(chosen, 1):
        report(f"searching the range of activation {number} of {len(chosen)}: {group.site}")
        choices[group.site] = _choose(model, group, spec, kind, activations[group.site])
    smoothings = {site: choice.smoothing for site, choice in choices.items() if choice.smoothing is not None}
    fold(model, smoothings)
    layers: dict[str, QuantizedLayer] = {}
    smoothed = [group for group in groups(model) if group.site in choices]
    for number, group in enumerate(smoothed, 1):
        report(f"rounding the weights that read activation {number} of {len(smoothed)}: {', '.join(group.layers)}")
        rows, choice = activations[group.site], choices[group.site]
        x = rows if choice.smoothing is None else choice.smoothing.applied(rows)
        layers |= _round(group.layers, x, choice.levels)
    return Quantization(layers, smoothings, centred, choices)


def plain(model: Model, found: Mapping[str, tuple[float, float]], kind: Kind) -> Quantization:
    """Quantise every layer that has a range directly, without folding, clipping or correcting biases.

    Args:
        model: The exported graph.
        found: Range (low, high) of each site to quantise.
        kind: Kind of levels for activations.
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


def _round(layers: Mapping[str, Linear], x: Float32, levels: Levels) -> dict[str, QuantizedLayer]:
    """Round the layers that read an activation, side by side, since each output channel is rounded on its own."""
    exact = np.concatenate([_float(layer.weight) for layer in layers.values()], axis=1)
    rounded = levels.nearest(x)
    weight = quantize_weight(exact, weight_kind(levels.kind), x.var(0))
    weight = compensated(exact, weight, covariance(rounded))
    bias = np.concatenate([_float(layer.bias) for layer in layers.values()])
    bias += x.mean(0) @ exact - rounded.mean(0) @ weight.dequantized
    ends = np.cumsum([layer.weight.shape[1] for layer in layers.values()])[:-1]
    parts = zip(np.split(weight.values, ends, axis=1), np.split(weight.scale, ends), np.split(bias, ends), strict=True)
    return {
        name: QuantizedLayer(levels, Weight(np.ascontiguousarray(values), scale), own)
        for name, (values, scale, own) in zip(layers, parts, strict=True)
    }


def _float(values: Array) -> Float32:
    return np.asarray(values, np.float32)
