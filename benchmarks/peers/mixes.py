"""Seeded mixes of image sizes, as grids of patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.images.fit import plan_fit

Grid = tuple[int, int]


@dataclass(frozen=True)
class Mix:
    """The images of a benchmark.

    Attributes:
        name: Name in tables.
        about: Description for a person.
        grids: (rows, columns) of each image in patches.
    """

    name: str
    about: str
    grids: tuple[Grid, ...]

    @property
    def lengths(self) -> list[int]:
        return [rows * columns for rows, columns in self.grids]

    @property
    def padding(self) -> float:
        """Share of a padded batch that is padding."""
        return 1 - sum(self.lengths) / (len(self.grids) * max(self.lengths))

    def images(self, patch_values: int, seed: int = 0) -> list[Patches]:
        rng = np.random.default_rng(seed)
        return [
            Patches(rng.integers(0, 256, (rows * columns, patch_values), dtype=np.uint8), (rows, columns))
            for rows, columns in self.grids
        ]


def _filled(tokens: int, count: int, seed: int) -> tuple[Grid, ...]:
    """Grids of photos with random aspect ratios, each resized to fill a budget as SigLIP2's processor does."""
    rng = np.random.default_rng(seed)
    sizes = [(1000, int(1000 * np.exp(rng.uniform(-0.6, 0.6)))) for _ in range(count)]
    return tuple(plan_fit(size, patch_size=16, tokens=tokens).grid_hw for size in sizes)


def mixes(shrink: int = 1) -> list[Mix]:
    """The published mixes; ``shrink`` divides the number of images in each, for a short run."""
    found = [
        Mix("fill", "SigLIP2's default: every image resized to fill 256 tokens", _filled(256, 8, 1)),
        Mix(
            "mixed",
            "36 to 256 tokens",
            ((6, 6), (16, 16), (9, 11), (14, 10), (8, 8), (16, 12), (15, 15), (11, 12)),
        ),
        Mix("documents", "256 to 1024 tokens", ((32, 32), (16, 16), (36, 20), (24, 22))),
        Mix("thumbnails", "36 tokens each", ((6, 6),) * 28),
    ]
    return [Mix(mix.name, mix.about, mix.grids[: max(2, len(mix.grids) // shrink)]) for mix in found]
