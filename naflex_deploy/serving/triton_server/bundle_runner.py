"""Run encoded images through a bundle, for a Python model of Triton Server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import on_grid
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.loading import load_engine
from naflex_deploy.serving.triton_server.preprocessing import GRIDS


class BundleRunner:
    """Gives what the ensemble of preprocessing and engine gives for the same images.

    Args:
        engine: The engine, which forms packs of the images of a request: it may hold more of them than a pack.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outputs = tuple(spec.name for spec in engine.variant.outputs)

    @classmethod
    def open(cls, bundle: Path) -> BundleRunner:
        """Load a bundle."""
        return cls(load_engine(bundle))

    def __call__(self, images: Sequence[bytes]) -> dict[str, npt.NDArray[np.generic]]:
        """Compute the outputs by name, with one row per image or token, and `GRIDS` [N, 2] int32.

        Of a document or clip, it is the first frame, as in the ensemble.

        Raises:
            ImageError: An image cannot be used, or there are no images.
        """
        if not images:
            raise ImageError("expected an image, found none")
        results = sorted(self._engine.stream(images, self._outputs), key=lambda result: (result.input, result.frame))
        first = [result for result in results if result.frame == 0]
        for result in first:
            if result.error is not None:
                raise ImageError(f"image {result.input}: {result.error}")
        found: dict[str, npt.NDArray[np.generic]] = {}
        for name in self._outputs:
            values = [result.outputs[name] for result in first]
            rows = [one.reshape(-1, one.shape[-1]) for one in values] if on_grid(name) else values
            found[name] = np.concatenate(rows) if on_grid(name) else np.stack(rows)
        return found | {GRIDS: np.array([result.grid_hw for result in first], np.int32)}
