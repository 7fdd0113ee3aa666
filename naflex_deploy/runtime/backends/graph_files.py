"""The files of a graph, and whether they are still those that were loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.files import identity
from naflex_deploy.core.manifest import Variant

S = TypeVar("S")


class GraphFiles:
    """The files of a variant, as they are when this is made.

    Args:
        model: Path of the graph; what lies beside it belongs to it.
        weights: Directory to which the paths of shared files are relative.
        variant: Its manifest entry.
    """

    def __init__(self, model: Path, weights: Path, variant: Variant) -> None:
        self._model, self._weights, self._variant = model, weights, variant
        self._loaded = [identity(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """All of them."""
        return [*sorted(self._model.parent.glob("*")), *(self._weights / name for name in self._variant.shares)]

    def unchanged(self) -> bool:
        """Whether none was replaced, changed or removed."""
        return [identity(path) for path in self.paths()] == self._loaded

    def load_again(self, load: Callable[[], S], otherwise: S) -> S:
        """Load the graph a second time; where its files are others now, return ``otherwise``."""
        if not self.unchanged():
            return otherwise
        try:
            again = load()
        except (NaflexError, OSError):
            if self.unchanged():
                raise
            return otherwise
        return again if self.unchanged() else otherwise
