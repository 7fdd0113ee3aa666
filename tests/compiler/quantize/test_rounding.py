"""Rounding errors of a weight's rows compensate for each other, on unseen inputs too."""

from __future__ import annotations

import numpy as np
import pytest

from naflex_deploy.compiler.quantize.levels import Float32, Kind, quantize_weight
from naflex_deploy.compiler.quantize.rounding import BLOCK, CHUNK, _factor_of_inverse, compensated, covariance


def correlated(rows: int, width: int, seed: int = 0) -> Float32:
    """Inputs whose channels are mixtures of a few, as activations are."""
    rng = np.random.default_rng(seed)
    mixture = np.random.default_rng(99).standard_normal((width // 4, width))
    own = 0.1 * rng.standard_normal((rows, width))
    return (rng.standard_normal((rows, width // 4)) @ mixture + own).astype(np.float32)


@pytest.mark.parametrize("kind", ["s8", "e4m3"])
@pytest.mark.parametrize("width", [48, 2 * BLOCK + 20])
def test_outputs_are_closer_than_by_rounding_each_weight(kind: Kind, width: int) -> None:
    x, held_out = correlated(2000, width), correlated(500, width, seed=1)
    weight = np.random.default_rng(2).standard_normal((width, 24)).astype(np.float32)
    start = quantize_weight(weight, kind, clip=False)
    found = compensated(weight, start, np.cov(x.T.astype(np.float64)))

    def error(values: Float32) -> float:
        return float(np.square(held_out @ (values - weight)).sum())

    assert error(found.dequantized) < error(start.dequantized) / 2
    assert found.values.dtype == start.values.dtype
    assert np.array_equal(found.scale, start.scale)
    assert np.abs(found.values.astype(np.float32)).max() <= np.abs(start.values.astype(np.float32)).max()


def test_of_inputs_without_correlation_it_is_plain_rounding() -> None:
    weight = np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32)
    start = quantize_weight(weight, "s8", clip=False)
    assert np.array_equal(compensated(weight, start, np.eye(40)).values, start.values)


def test_channels_that_are_always_the_same_do_no_harm() -> None:
    x = correlated(300, 32)
    x[:, 5] = 3
    weight = np.random.default_rng(2).standard_normal((32, 8)).astype(np.float32)
    start = quantize_weight(weight, "s8")
    found = compensated(weight, start, np.cov(x.T.astype(np.float64)))
    assert np.isfinite(found.dequantized).all()
    silent = np.zeros((32, 32))
    assert np.array_equal(compensated(weight, start, silent).values, start.values)


def test_the_covariance_is_that_of_float64_with_large_means_and_outliers_too() -> None:
    x = correlated(2 * CHUNK + 7, 48)
    x[:, 3] = 1000 * x[:, 3] + 300
    x[5] *= 100
    expected = np.cov(x.T.astype(np.float64), bias=True)
    deviation = np.sqrt(np.diag(expected))
    assert np.abs((covariance(x) - expected) / np.outer(deviation, deviation)).max() < 1e-5


@pytest.mark.parametrize("width", [1, 5, BLOCK + 3, 3 * BLOCK])
def test_the_inverse_has_a_triangular_factor(width: int) -> None:
    matrix = np.cov(correlated(2 * width + 2, max(width, 4)).T.astype(np.float64))[:width, :width].reshape(width, width)
    matrix = matrix + np.eye(width) * 0.01
    factor = _factor_of_inverse(matrix)
    assert np.array_equal(factor, np.triu(factor))
    assert np.abs(factor.T @ factor @ matrix - np.eye(width)).max() < 1e-8
