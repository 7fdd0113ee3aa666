"""Rounds a weight so that the errors of its rows compensate for each other, after Frantar et al., "GPTQ", ICLR 2023.

Rows are rounded one after another, those of the strongest inputs first, and the error of each row is spread over the
rows still to come in the way that changes the layer's outputs least.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from naflex_deploy.compiler.quantize.levels import Float32, Kind, Weight, round_scaled

DAMPING = 0.01
"""Share of the mean input variance added to each variance, so that directions rarely seen in images are not trusted."""
BLOCK = 128
"""Number of rows whose errors are spread over the rest at once."""
CHUNK = 512
"""Number of rows whose products are summed in float32."""


def compensated(weight: Float32, start: Weight, covariance: npt.NDArray[np.float64]) -> Weight:
    """Round a weight with error compensation, keeping the scales of its plain rounding.

    Args:
        weight: Weight to round, [D, E].
        start: The weight after plain rounding.
        covariance: Covariance of the layer's input, [D, D].
    """
    variance = np.diag(covariance)
    damped = covariance + np.eye(len(weight)) * max(DAMPING * variance.mean(), 1e-30)
    order = np.argsort(-variance, kind="stable")
    upper = _factor_of_inverse(damped[np.ix_(order, order)])
    rest = weight[order].astype(np.float64)
    kind: Kind = "s8" if start.values.dtype == np.int8 else "e4m3"
    found = np.empty_like(start.values)
    for first in range(0, len(rest), BLOCK):
        last = min(first + BLOCK, len(rest))
        errors = np.empty((last - first, rest.shape[1]))
        for row in range(first, last):
            values = round_scaled((rest[row] / start.scale).astype(np.float32), kind)
            found[order[row]] = values
            error = (rest[row] - values.astype(np.float64) * start.scale) / upper[row, row]
            rest[row + 1 : last] -= np.outer(upper[row, row + 1 : last], error)
            errors[row - first] = error
        rest[last:] -= upper[first:last, last:].T @ errors
    return Weight(found, start.scale)


def covariance(x: Float32) -> npt.NDArray[np.float64]:
    """Covariance of the channels of an activation [N, D], as [D, D]; divided by N.

    Products are summed in float32 over `CHUNK` rows and in float64 over chunks, which takes half as long as float64
    alone and keeps errors below 1e-5 of the channels' deviations.
    """
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    found = np.zeros((x.shape[1], x.shape[1]))
    for first in range(0, len(x), CHUNK):
        chunk = x[first : first + CHUNK] - mean
        found += chunk.T @ chunk
    return found / len(x)


def _factor_of_inverse(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The upper triangular U with ``Uᵀ·U = matrix⁻¹``, for a positive definite matrix.

    Factorising the matrix with rows and columns reversed gives an upper triangular R with ``R·Rᵀ = matrix``, and
    U = R⁻¹. No full matrix is inverted.
    """
    factor = np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
    return _inverse_of_upper(np.asarray(factor, np.float64))


def _inverse_of_upper(r: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse of an upper triangular matrix, by halves: ``[[A, B], [0, C]]⁻¹ = [[A⁻¹, -A⁻¹·B·C⁻¹], [0, C⁻¹]]``."""
    half = len(r) // 2
    if half < BLOCK // 2:
        return np.triu(np.linalg.inv(r))
    found = np.zeros_like(r)
    found[:half, :half] = _inverse_of_upper(r[:half, :half])
    found[half:, half:] = _inverse_of_upper(r[half:, half:])
    found[:half, half:] = -found[:half, :half] @ r[:half, half:] @ found[half:, half:]
    return found
