"""The search finds the smoothing and the range in cases where the best ones are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from naflex_deploy.compiler.quantize.levels import Float32, Kind, Levels
from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.search import TRIED, Choice, _least, _readout, search

ROWS, WIDTH, OUT = 400, 32, 24


def drawn(seed: int = 0, rows: int = ROWS) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, WIDTH)).astype(np.float32)
    return x, (rng.standard_normal((WIDTH, OUT)) / WIDTH**0.5).astype(np.float32)


def found(x: Float32, weight: Float32, kind: Kind = "u8", *, free: bool = True, shifts: bool = True) -> Choice:
    return search(SiteObservation.of(x), x, [weight], kind, "minmax", free=free, shifts=shifts)


def error(x: Float32, weight: Float32, choice: Choice) -> float:
    """Error of outputs from rounding only activations, up to a constant and relative to their variance, by formula."""
    smooth = choice.smoothing.applied(x) if choice.smoothing else x
    read = weight * choice.smoothing.scale[:, None] if choice.smoothing else weight
    return float(((choice.levels.nearest(smooth) - smooth) @ read).var(0).sum() / (x @ weight).var(0).sum())


def plain(x: Float32, kind: Kind = "u8") -> Choice:
    return Choice(Levels.of(kind, float(x.min()), float(x.max())), None, None, np.zeros(0))


@pytest.mark.parametrize("kind", ["u8", "s8"])
def test_outlier_channels_are_smoothed(kind: Kind) -> None:
    x, weight = drawn()
    x[:, 3] *= 200
    weight[3] /= 200
    choice = found(x, weight, kind)
    assert choice.alpha is not None
    assert choice.errors.mean() < error(x, weight, plain(x, kind)) / 100
    assert error(x, weight, choice) <= choice.errors.mean() < 2 * error(x, weight, choice)


def test_channels_with_a_mean_are_centred_where_they_can_be() -> None:
    x, weight = drawn()
    x[:, ::2] += 20
    centred, not_centred = found(x, weight), found(x, weight, shifts=False)
    assert centred.smoothing is not None
    assert centred.smoothing.shift[::2] == pytest.approx(20, abs=2)
    assert centred.errors.mean() < not_centred.errors.mean() / 3


def test_an_operation_more_has_to_be_worth_it() -> None:
    x, weight = drawn()
    x[:, 3] *= 2
    assert found(x, weight).smoothing is not None
    assert found(x, weight, free=False, shifts=False).smoothing is None
    x[:, 3] *= 100
    weight[3] /= 100
    assert found(x, weight, free=False, shifts=False).smoothing is not None


def test_a_channel_that_never_changes_does_not_widen_the_range() -> None:
    """Its error is a constant, which the bias corrects."""
    x, weight = drawn()
    x[:, 5] = 300
    assert error(x, weight, found(x, weight, free=False, shifts=False)) < 1e-3


def test_channels_that_cancel_do_not_either() -> None:
    x, weight = drawn()
    x[:, 1] = x[:, 2] = np.random.default_rng(1).exponential(100, ROWS)
    weight[1] = -weight[2]
    assert error(x, weight, found(x, weight, free=False, shifts=False)) < 1e-3


@pytest.mark.parametrize("rows", [1, 2, 40, 400])
@pytest.mark.parametrize("kind", ["u8", "s8"])
def test_what_fits_a_few_images_alone_is_not_taken(kind: Kind, rows: int) -> None:
    """A range shared by channels of different sizes has room for most; of one size, each exceeds it on other images."""
    ratios = []
    for seed in range(20):
        x, weight = drawn(seed, rows)
        others, _ = drawn(100 + seed, 4000)
        sizes = np.random.default_rng(seed).uniform(1, 2, WIDTH).astype(np.float32)
        x, others = x * sizes, others * sizes
        ratios.append(error(others, weight, found(x, weight, kind)) / error(others, weight, plain(x, kind)))
    assert np.mean(ratios) < 1.05


def test_large_values_that_matter_keep_their_range() -> None:
    x, weight = drawn()
    x[:, 1] = np.random.default_rng(1).exponential(10, ROWS)
    choice = found(x, weight, free=False, shifts=False)
    smooth = choice.smoothing.applied(x) if choice.smoothing else x
    assert choice.levels.range[1] > 0.9 * smooth.max()


def test_a_range_that_cuts_off_is_not_taken_for_a_little() -> None:
    """Values outside the range in these images may matter in others."""
    x, weight = drawn()
    low, high = found(x, weight, free=False, shifts=False).levels.range
    assert low <= x.min() * 0.99
    assert high >= x.max() * 0.99


def test_fp8_covers_everything() -> None:
    x, weight = drawn()
    x[0, 0] = 50
    levels = search(SiteObservation.of(x), x, [weight], "e4m3", "percentile", free=False, shifts=False).levels
    assert levels.range[1] >= 50 * 0.999


def test_rare_values_that_matter_keep_their_range_though_few_rows_are_tried() -> None:
    """They lie in rows on which candidates are not compared."""
    x, weight = drawn(rows=4 * TRIED)
    x[:, 1] = 0
    x[2::4, 1] = np.random.default_rng(1).exponential(20, TRIED)
    choice = found(x, weight, free=False, shifts=False)
    smooth = choice.smoothing.applied(x) if choice.smoothing else x
    assert choice.levels.range[1] > 0.9 * smooth.max()


@pytest.mark.parametrize("widths", [(5,), (40, 7, 24)])
def test_the_readout_stands_for_all_layers(widths: tuple[int, ...]) -> None:
    x, _ = drawn()
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal((WIDTH, width)).astype(np.float32) for width in widths]
    power = [float(place + 2) for place in range(len(widths))]
    expected = np.mean([(x @ weight).var(0).sum() / y for weight, y in zip(weights, power, strict=True)])
    readout = _readout(weights, power)
    assert readout.shape == (WIDTH, min(WIDTH, sum(widths)))
    assert (x @ readout).var(0).sum() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("few", "many", "whole", "chosen"),
    [
        ((1.3, 1.01, 1.0), (1.0, 2.0, 2.1), False, 1),  # a near tie, which all rows decide
        ((1.3, 1.01, 1.0), (1.0, 2.2, 2.1), False, 2),
        ((1.3, 1.06, 1.0), (1.0, 2.0, 2.1), False, 2),
        ((1.3, 1.01, 1.0), (1.0, 2.0, 2.1), True, 2),
    ],
)
def test_all_rows_decide_between_smoothings_that_are_nearly_as_good_on_some(few, many, whole, chosen) -> None:
    site = SimpleNamespace(whole=whole, folds=["all rows"])
    trials = [SimpleNamespace(error=lambda folds=(), n=n: (many if folds else few)[n], n=n) for n in range(3)]
    assert _least(trials, site).n == chosen
