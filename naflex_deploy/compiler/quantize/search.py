"""Searches for the smoothing and the range of an activation that change the outputs of its layers least.

Outputs are compared on activations of calibration images, ignoring the mean error of each channel, which the layer's
bias corrects. The images are divided into folds, and each fold is rounded with the smoothing and range that the other
folds would choose. This cross-validation matters because a range fitted to few images cuts off values of new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from heapq import nsmallest
from typing import TypeVar

import numpy as np

from naflex_deploy.compiler.quantize import ranges
from naflex_deploy.compiler.quantize.levels import Float32, Kind, Levels, quantize_weight, weight_kind
from naflex_deploy.compiler.quantize.observation import Float64, SiteObservation
from naflex_deploy.compiler.quantize.rounding import covariance
from naflex_deploy.compiler.quantize.smooth import Smoothing
from naflex_deploy.core.profile import Method

T = TypeVar("T")

ALPHAS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FOLDS = 4
FEWEST = 8 * FOLDS
"""Fewest rows from which a smoothing or range is derived."""
SMOOTHED = 0.9
"""Largest share of the error that may remain in any fold for a smoothing that costs nothing to be used."""
WORTH = 0.5
"""Largest share of the error that may remain in any fold for a smoothing that costs one product per value."""
COMPENSATED = 1 / 6
"""Approximate share of the weights' rounding error that remains after `rounding` compensates for it."""
NARROWER = 0.7
"""Largest share of the error that may remain in any fold for a range that does not cover all values to be used."""
PARTS = (0.95, *(2.0 ** -np.arange(0.15, 10, 0.3)))
"""Fractions of the range that are tried, until `PATIENCE` in a row do worse."""
PATIENCE = 3
COLUMNS = 512
"""Largest number of output channels of each layer on which outputs are compared."""
TRIED = 2048
"""Largest number of rows on which candidates are compared, taken evenly from all folds."""
NEAR = 1.05
"""Ratio of the errors of two smoothings up to which these rows do not decide between them."""

Ranges = list[tuple[float, float]]
"""(low, high) for each fold, derived from the other folds, and last the range derived from all images."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The smoothing and range chosen for the input of some layers.

    Attributes:
        levels: Levels to which the input is rounded, after smoothing.
        smoothing: Smoothing of the input; ``None`` if there is none.
        alpha: Strength of the smoothing; ``None`` if there is none.
        errors: Squared error of the layers' outputs relative to their variance, averaged over the layers, for each fold
            on images from which neither smoothing nor range was derived, [`FOLDS`]; empty if nothing was measured.
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
        seen: Observation over all calibration images.
        x: Some rows of the activation, image by image, [N, D].
        weights: Weight of each layer that reads it, [D, E].
        kind: Kind of its levels.
        method: Method that derives a range from a histogram. A range that does not cover all observed values is used
            only if it does far better.
        free: Whether smoothing costs nothing, because another layer absorbs it.
        shifts: Whether smoothing can shift channels.
    """
    if len(x) < FEWEST:
        return Choice(Levels.of(kind, *ranges.asymmetric(seen, "minmax")), None, None, np.zeros(0))
    site = _Site(seen, x, weights, kind, shifts=shifts)
    plain = _Trial(site, None).narrowed(method)
    smooth = _least((_Trial(site, alpha) for alpha in ALPHAS), site).narrowed(method)
    return smooth if _less(smooth.errors, plain.errors, SMOOTHED if free else WORTH) else plain


def _least(trials: Iterable[_Trial], site: _Site) -> _Trial:
    """The trial with the least error; of the best two, the one that is better on all rows where it is a near tie."""
    scored = ((trial.error(), number, trial) for number, trial in enumerate(trials))
    (least, _, first), (error, _, second) = nsmallest(2, scored)
    if site.whole or error > NEAR * least:
        return first
    return min(first, second, key=lambda trial: trial.error(site.folds))


class _Site:
    """The activation that some layers read, divided into folds."""

    def __init__(
        self, seen: SiteObservation, x: Float32, weights: Sequence[Float32], kind: Kind, *, shifts: bool
    ) -> None:
        self.kind, self.shifts = kind, shifts
        self.folds = np.array_split(x, FOLDS)  # Folds hold whole images, except at their edges.
        step = max(1, len(x) // TRIED)
        self.tried = [fold[::step] for fold in self.folds]
        self.whole = step == 1
        observed = [SiteObservation.of(fold) for fold in self.folds]
        self.seen = [*(reduce(SiteObservation.merged, _without(observed, fold)) for fold in range(FOLDS)), seen]
        self.read = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
        self.weights = [weight[:, :: -(-weight.shape[1] // COLUMNS)] for weight in weights]
        self.covariance = covariance(x).astype(np.float32)
        self.power = [self.variance(weight) for weight in self.weights]
        self.readout = _readout(self.weights, self.power)

    def variance(self, weight: Float32) -> float:
        """Variance of the activation's product with a weight, summed over output channels, from the covariance."""
        return max(float(np.vdot(weight, self.covariance @ weight)), 1e-30)


class _Trial:
    """An activation with one smoothing, or none."""

    def __init__(self, site: _Site, alpha: float | None) -> None:
        self.site, self.alpha = site, alpha
        self.smoothings = [self._smoothing(seen) for seen in site.seen]
        self.tried = self._applied(site.tried)
        stored, scale = weight_kind(site.kind), self.smoothings[-1].scale[:, None]
        lost = [quantize_weight(w * scale, stored, clip=False).dequantized / scale - w for w in site.weights]
        self.of_weights = np.mean([site.variance(part) / y for part, y in zip(lost, site.power, strict=True)])

    def covered(self, method: Method) -> Ranges:
        """The ranges that a method derives."""
        return [self._covered(fold, method) for fold in range(FOLDS + 1)]

    def errors(self, ranges: Ranges, rows: Sequence[Float32] | None = None) -> Float64:
        """The errors with such ranges, as in `Choice`.

        Args:
            ranges: The ranges.
            rows: Smoothed rows of each fold; the default is those on which candidates are compared.
        """
        found = []
        for x, smoothing, (low, high) in zip(rows or self.tried, self.smoothings, ranges, strict=False):
            lost = self._levels(low, high).nearest(x)
            lost -= x
            lost *= smoothing.scale
            found.append(_spread(lost @ self.site.readout))
        return np.asarray(np.array(found) + COMPENSATED * self.of_weights, np.float64)

    def error(self, folds: Sequence[Float32] = ()) -> float:
        """The mean error over folds with ranges that cover all values, on the rows tried or on other rows of them."""
        return float(self.errors(self.covered("minmax"), self._applied(folds) or None).mean())

    def _applied(self, folds: Sequence[Float32]) -> list[Float32]:
        return [smoothing.applied(x) for smoothing, x in zip(self.smoothings, folds, strict=False)]

    def narrowed(self, method: Method) -> Choice:
        """Narrow the range only if that does far better, because values cut off may matter in images not yet seen."""
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
        if not _less(errors, start, NARROWER):
            return self._choice(full, start)
        if not self.site.whole:
            rows = self._applied(self.site.folds)
            start, errors = self.errors(full, rows), self.errors(best, rows)
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
        if self.alpha is not None:  # The histogram is that of the rows, the range that of all images.
            rows = np.concatenate(_without(self.site.tried, fold))
            of_rows = SiteObservation.of(smoothing.applied(rows))
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
    """Whether less than a share of the error remains in every fold."""
    return bool((errors < share * than).all())


def _without(folds: Sequence[T], fold: int) -> list[T]:
    """The other folds, which decide about a fold; all of them for the final choice, whose number is `FOLDS`."""
    return [one for number, one in enumerate(folds) if number != fold]


def _readout(weights: Sequence[Float32], power: Sequence[float]) -> Float32:
    """A matrix [D, R] that stands for all layers: the variance of ``x @ readout``, summed over channels, is the mean
    over layers of the variance of ``x @ weight``, summed and relative to its power.

    It is that of the layers side by side or, where these have more than D columns, the triangular factor of their
    transpose, since ``QR = Aᵀ`` gives ``A·Aᵀ = Rᵀ·R``.
    """
    scaled = [weight / np.float32((y * len(weights)) ** 0.5) for weight, y in zip(weights, power, strict=True)]
    beside = np.concatenate(scaled, axis=1)
    if beside.shape[1] <= len(beside):
        return beside
    factor: Float32 = np.linalg.qr(beside.T, mode="r")  # type: ignore[assignment]
    return np.ascontiguousarray(factor.T)


def _spread(values: Float32) -> float:
    """Variance over rows, summed over channels; the values are overwritten."""
    values -= values.mean(0)
    return max(float(np.vdot(values, values)) / len(values), 1e-30)
