"""Fast fake engines whose result identifies each image."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.session import Outputs

POISON = 255
"""An image whose first pixel has this value makes a `FormulaSession` return NaN, for its whole pack."""


def formula(image: Patches) -> np.ndarray:
    """The result of a `FormulaSession` for an image, [4]."""
    h, w = image.grid_hw
    total = float(image.pixels.astype(np.float64).sum())
    return np.array([total % 9973, h, w, float(image.pixels[0, 0])], np.float32)


class FormulaSession:
    """Per image its sum of pixels, its grid and its first pixel.

    Args:
        seconds: That a pack takes.
    """

    def __init__(self, seconds: float = 0.0, poison: bool = False) -> None:
        self.seconds = seconds
        self.poison = poison
        self.packs: list[int] = []

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        if self.seconds:
            time.sleep(self.seconds)
        self.packs.append(pack.images)
        starts = pack.offsets[:-1] + pack.prefix
        ends = pack.offsets[1:]
        images = [
            Patches(pack.patches[a:b], (int(h), int(w)))
            for a, b, (h, w) in zip(starts, ends, pack.grid_hw, strict=True)
        ]
        pooled = np.stack([formula(image) for image in images])
        if self.poison and (pooled[:, 3] == POISON).any():
            pooled = np.full_like(pooled, np.nan)
        tokens = np.repeat(pack.patches[:, :1].astype(np.float32), 4, axis=1)
        return {name: {"pooled": pooled, "logits": pooled, "tokens": tokens}[name] for name in outputs}
