"""How much to smooth an activation and how far to cover it: what leaves the outputs of its layers closest.

Outputs are compared on activations of calibration images, up to a constant for each channel, as a layer's bias takes
the mean error in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.build.quantize import ranges
from naflex_deploy.build.quantize.levels import Float32, Kind, Levels, quantize_weight, weight_kind
from naflex_deploy.build.quantize.observation import SiteObservation
from naflex_deploy.build.quantize.smooth import Smoothing
from naflex_deploy.core.profile import Method

ALPHAS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WORTH = 0.5
"""Of the error, that which has to be left for a smoothing that costs a product for each value."""
COMPENSATED = 1 / 6
"""Of the error that rounded weights make, about that which `rounding` leaves."""
NARROWER = 0.7
"""Of the error, that which has to be left for a range that does not cover all."""
PARTS = (0.95, *(2.0 ** -np.arange(0.15, 10, 0.3)))
"""Of the range, those that are tried until `PATIENCE` in a row do worse."""
PATIENCE = 3
COLUMNS = 512
"""Output channels that tell, of each layer."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What was found for the input of some layers.

    Attributes:
        levels: That it is rounded to, once smoothed.
        smoothing: ``None`` where it stays as it is.
        alpha: Of the smoothing.
        error: Squared error of the layers' outputs over their variance, the mean of the layers.
    """

    levels: Levels
    smoothing: Smoothing | None
    alpha: float | None
    error: float


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
        x: [N, D], some of its rows.
        weights: [D, E] of each layer that reads it.
        kind: Of its levels.
        method: By which a range follows from a histogram; one that does not cover all that was seen is taken where
            it does far better.
        free: Whether smoothing costs nothing.
        shifts: Whether it can move channels.
    """
    read = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
    some = [weight[:, :: -(-weight.shape[1] // COLUMNS)] for weight in weights]
    trial = _Trial(x, some, kind)
    plain = trial.narrowed(trial.all_of(seen), seen, method)
    smooth: tuple[Choice, _Trial, SiteObservation] | None = None
    for alpha in ALPHAS:
        smoothing = Smoothing.of(seen, read, alpha, shifts=shifts)
        trial = _Trial(smoothing.applied(x), [weight * smoothing.scale[:, None] for weight in some], kind)
        smoothed = _smoothed(seen, trial.x, smoothing)
        found = replace(trial.all_of(smoothed), smoothing=smoothing, alpha=alpha)
        if smooth is None or found.error < smooth[0].error:
            smooth = found, trial, smoothed
    assert smooth is not None
    start, trial, smoothed = smooth
    best = trial.narrowed(start, smoothed, method)
    return best if best.error < plain.error * (1 if free else WORTH) else plain


def levels_of(seen: SiteObservation, kind: Kind, method: Method) -> Levels:
    """The levels that a histogram and a method give."""
    if kind == "u8":
        return Levels.of(kind, *ranges.asymmetric(seen, method))
    # The levels of E4M3 lie dense near zero, whatever the largest magnitude.
    amax = ranges.symmetric(seen, "minmax" if kind == "e4m3" else method)
    return Levels.of(kind, -amax, amax)


def _smoothed(seen: SiteObservation, rows: Float32, smoothing: Smoothing) -> SiteObservation:
    """What would have been seen of a smoothed activation: the histogram of its rows, the range of all images."""
    low, high = smoothing.applied(seen.channel_low), smoothing.applied(seen.channel_high)
    return replace(SiteObservation.of(rows), channel_low=low, channel_high=high)


class _Trial:
    """Layers and what they read, smoothed in one way."""

    def __init__(self, x: Float32, weights: Sequence[Float32], kind: Kind) -> None:
        self.x, self.weights, self.kind = x, weights, kind
        stored = weight_kind(kind)
        lost = [quantize_weight(weight, stored, clip=False).dequantized - weight for weight in weights]
        self.power = [_spread(x @ weight) for weight in weights]
        self.of_weights = np.mean([_spread(x @ part) / y for part, y in zip(lost, self.power, strict=True)])

    def all_of(self, seen: SiteObservation) -> Choice:
        """Cover all that was seen."""
        return self._choice(levels_of(seen, self.kind, "minmax"))

    def narrowed(self, start: Choice, seen: SiteObservation, method: Method) -> Choice:
        """Cover less where that does far better: what is cut off may matter in images that were not seen."""
        if self.kind == "e4m3":
            return start
        chosen = self._choice(levels_of(seen, self.kind, method))
        best = replace(start, levels=chosen.levels, error=chosen.error) if chosen.error < start.error else start
        for side in ("both",) if self.kind == "s8" else ("high", "low"):
            low, high = best.levels.range
            worse = 0
            for part in PARTS:
                covered = (low if side == "high" else part * low, high if side == "low" else part * high)
                tried = self._choice(Levels.of(self.kind, *covered))
                if tried.error < best.error:
                    best, worse = replace(best, levels=tried.levels, error=tried.error), 0
                elif (worse := worse + 1) == PATIENCE:
                    break
        return best if best.error < NARROWER * start.error else start

    def _choice(self, levels: Levels) -> Choice:
        lost = levels.nearest(self.x) - self.x
        errors = [_spread(lost @ weight) / y for weight, y in zip(self.weights, self.power, strict=True)]
        return Choice(levels, None, None, float(np.mean(errors) + COMPENSATED * self.of_weights))


def _spread(values: npt.NDArray[np.floating[Any]]) -> float:
    """Variance over rows, summed over channels."""
    return max(float(values.var(0).sum()), 1e-30)
