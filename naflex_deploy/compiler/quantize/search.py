"""How much to smooth an activation and how far to cover it: what leaves the outputs of its layers closest.

Outputs are compared on activations of calibration images, up to a constant for each channel, as a layer's bias takes
the mean error in. The images are divided into folds, and each is rounded as the others alone would have it: ranges
that just hold the images they were made of cut off much of those still to come, the more the fewer there were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.compiler.quantize import ranges
from naflex_deploy.compiler.quantize.levels import Float32, Kind, Levels, quantize_weight, weight_kind
from naflex_deploy.compiler.quantize.observation import Float64, SiteObservation
from naflex_deploy.compiler.quantize.smooth import Smoothing
from naflex_deploy.core.profile import Method

ALPHAS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FOLDS = 4
FEWEST = 8 * FOLDS
"""Rows: of fewer, nothing is concluded."""
SMOOTHED = 0.9
"""Of the error, that which may be left in every fold for a smoothing to be taken."""
WORTH = 0.5
"""The same of one that costs a product for each value."""
COMPENSATED = 1 / 6
"""Of the error that rounded weights make, about that which `rounding` leaves."""
NARROWER = 0.7
"""The same for a range that does not cover all."""
PARTS = (0.95, *(2.0 ** -np.arange(0.15, 10, 0.3)))
"""Of the range, those that are tried until `PATIENCE` in a row do worse."""
PATIENCE = 3
COLUMNS = 512
"""Output channels that tell, of each layer."""

Ranges = list[tuple[float, float]]
"""(low, high) for each fold, as the other folds have it, and last as all images have it."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What was found for the input of some layers.

    Attributes:
        levels: That it is rounded to, once smoothed.
        smoothing: ``None`` where it stays as it is.
        alpha: Of the smoothing.
        errors: [`FOLDS`] squared error of the layers' outputs over their variance, the mean of the layers, on images
            that neither smoothing nor range were made of; empty where nothing was measured.
    """

    levels: Levels
    smoothing: Smoothing | None
    alpha: float | None
    errors: Float64


def search(
    seen: SiteObservation,
    x: Float32,
    weights: Sequence[Float32],
    kind: Kind,
    method: Method,
    *,
    free: bool,
    shifts: bool,
) -> Choice:
    """Find the smoothing and the range of one activation.

    Args:
        seen: Over all calibration images.
        x: [N, D], some of its rows, image by image.
        weights: [D, E] of each layer that reads it.
        kind: Of its levels.
        method: By which a range follows from a histogram; one that does not cover all that was seen is taken where
            it does far better.
        free: Whether smoothing costs nothing.
        shifts: Whether it can move channels.
    """
    if len(x) < FEWEST:
        return Choice(Levels.of(kind, *ranges.asymmetric(seen, "minmax")), None, None, np.zeros(0))
    site = _Site(seen, x, weights, kind, shifts=shifts)
    plain = _Trial(site, None).narrowed(method)
    trials = (_Trial(site, alpha) for alpha in ALPHAS)
    best = min(trials, key=lambda trial: trial.errors(trial.covered("minmax")).mean())
    smooth = best.narrowed(method)
    return smooth if _less(smooth.errors, plain.errors, SMOOTHED if free else WORTH) else plain


class _Site:
    """What some layers read, divided into folds."""

    def __init__(
        self, seen: SiteObservation, x: Float32, weights: Sequence[Float32], kind: Kind, *, shifts: bool
    ) -> None:
        self.x, self.kind, self.shifts = x, kind, shifts
        self.folds = np.array_split(x, FOLDS)  # of whole images, but for the one at an edge
        self.seen = [*(SiteObservation.of(self.rows(fold)) for fold in range(FOLDS)), seen]
        self.read = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
        self.weights = [weight[:, :: -(-weight.shape[1] // COLUMNS)] for weight in weights]
        self.power = [_spread(x @ weight) for weight in self.weights]

    def rows(self, fold: int) -> Float32:
        """What decides about a fold: the rows of the others; all of them for `FOLDS`, what is chosen in the end."""
        return self.x if fold == FOLDS else np.concatenate(self.folds[:fold] + self.folds[fold + 1 :])


class _Trial:
    """An activation smoothed in one way, or not at all."""

    def __init__(self, site: _Site, alpha: float | None) -> None:
        self.site, self.alpha = site, alpha
        self.smoothings = [self._smoothing(seen) for seen in site.seen]
        self.folds = [smoothing.applied(x) for smoothing, x in zip(self.smoothings, site.folds, strict=False)]
        stored, scale = weight_kind(site.kind), self.smoothings[-1].scale[:, None]
        lost = [quantize_weight(w * scale, stored, clip=False).dequantized / scale - w for w in site.weights]
        self.of_weights = np.mean([_spread(site.x @ part) / y for part, y in zip(lost, site.power, strict=True)])

    def covered(self, method: Method) -> Ranges:
        """What a method covers."""
        return [self._covered(fold, method) for fold in range(FOLDS + 1)]

    def errors(self, tried: Ranges) -> Float64:
        """See `Choice`."""
        parts = zip(self.folds, self.smoothings, tried, strict=False)
        lost = np.concatenate([(self._levels(*covered).nearest(x) - x) * by.scale for x, by, covered in parts])
        outputs = [np.array_split(lost @ weight, FOLDS) for weight in self.site.weights]
        errors = [[_spread(fold) / p for fold in y] for y, p in zip(outputs, self.site.power, strict=True)]
        return np.asarray(np.mean(errors, axis=0) + COMPENSATED * self.of_weights)

    def narrowed(self, method: Method) -> Choice:
        """Cover less than all where that does far better: what is cut off may matter in images that were not seen."""
        full = self.covered("minmax")
        start = self.errors(full)
        if self.site.kind == "e4m3":
            return self._choice(full, start)
        best, errors = full, start
        if (found := self.errors(chosen := self.covered(method))).mean() < errors.mean():
            best, errors = chosen, found
        for side in ("both",) if self.site.kind == "s8" else ("high", "low"):
            base, worse = best, 0
            for part in PARTS:
                low, high = 1.0 if side == "high" else float(part), 1.0 if side == "low" else float(part)
                tried = [(low * least, high * greatest) for least, greatest in base]
                if (found := self.errors(tried)).mean() < errors.mean():
                    best, errors, worse = tried, found, 0
                elif (worse := worse + 1) == PATIENCE:
                    break
        return self._choice(best, errors) if _less(errors, start, NARROWER) else self._choice(full, start)

    def _smoothing(self, seen: SiteObservation) -> Smoothing:
        if self.alpha is None:
            return Smoothing(np.ones_like(seen.channel_low), np.zeros_like(seen.channel_low))
        return Smoothing.of(seen, self.site.read, self.alpha, shifts=self.site.shifts)

    def _covered(self, fold: int, method: Method) -> tuple[float, float]:
        seen, smoothing = self.site.seen[fold], self.smoothings[fold]
        low, high = smoothing.applied(seen.channel_low), smoothing.applied(seen.channel_high)
        if method == "minmax":
            return min(float(low.min()), 0.0), max(float(high.max()), 0.0)
        if self.alpha is not None:  # the histogram of the rows, the range of all images
            of_rows = SiteObservation.of(smoothing.applied(self.site.rows(fold)))
            seen = replace(of_rows, channel_low=low, channel_high=high)
        if self.site.kind == "u8":
            return ranges.asymmetric(seen, method)
        amax = ranges.symmetric(seen, method)
        return -amax, amax

    def _levels(self, low: float, high: float) -> Levels:
        return Levels.of(self.site.kind, low, high)

    def _choice(self, found: Ranges, errors: Float64) -> Choice:
        return Choice(self._levels(*found[-1]), self.smoothings[-1] if self.alpha else None, self.alpha, errors)


def _less(errors: Float64, than: Float64, share: float) -> bool:
    """Whether not more than a share is left, whichever images are held out."""
    return bool((errors < share * than).all())


def _spread(values: npt.NDArray[np.floating[Any]]) -> float:
    """Variance over rows, summed over channels."""
    return max(float(values.var(0).sum()), 1e-30)
