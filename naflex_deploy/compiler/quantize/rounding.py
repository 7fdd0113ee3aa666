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
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
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
