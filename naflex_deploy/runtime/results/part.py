"""Rows of an output that are read back: their vectors at once, and the columns of those that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from naflex_deploy.runtime.results.vectors import Float


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows.

    Attributes:
        vectors: [N, D] float32.
        row: Gives the columns of a row by their names, by its number from 0.
    """

    vectors: Float
    row: Callable[[int], Mapping[str, Any]]
