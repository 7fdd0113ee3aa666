"""Encoded images to the inputs of an engine, for a Python model of Triton Server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.packing.prepare import Preparer

VARIANT = "variant.txt"
"""File that names the variant, beside the manifest."""

GRIDS = "image_grid_hw"
"""Output with the rows and columns of each image's patches."""


class Preprocessor:
    """Decodes, fits and cuts the images of a request, and lays them out as one pack.

    Args:
        manifest: The bundle's.
        variant: The variant whose inputs are made.
    """

    def __init__(self, manifest: Manifest, variant: Variant) -> None:
        self._variant = variant
        self._prepare = Preparer.of(manifest, variant)
        self._prefix = manifest.model.prefix

    @classmethod
    def open(cls, folder: Path) -> Preprocessor:
        """Read the manifest and the variant's name from the directory of a model's version."""
        manifest = Manifest.read(folder)
        return cls(manifest, manifest.variant((folder / VARIANT).read_text(encoding="utf-8").strip()))

    def __call__(self, images: Sequence[bytes]) -> dict[str, npt.NDArray[np.generic]]:
        """The engine's inputs by name, and `GRIDS` [N+1, 2] int32.

        Raises:
            ImageError: An image cannot be used, there is none, or together they do not fit into a pack.
        """
        pack = self._pack(images)
        views = {spec.role.value: pack.view(spec.role) for spec in self._variant.inputs} | {GRIDS: pack.grid_hw}
        return {name: np.ascontiguousarray(values) for name, values in views.items()}

    def _pack(self, images: Sequence[bytes]) -> Pack:
        patches = []
        for index, image in enumerate(images):
            prepared, *_ = next(self._prepare(index, image))
            if prepared.patches is None:
                raise ImageError(f"image {index}: {prepared.result.error}")
            patches.append(prepared.patches)
        if not patches:
            raise ImageError("expected an image, found none")
        tokens = sum(self._prefix + len(image) for image in patches)
        if tokens > self._variant.budgets[-1]:
            raise ImageError(
                f"expected at most {self._variant.budgets[-1]} tokens in a request, found {tokens}",
                hint="send fewer images at once",
            )
        return Pack.of(patches, prefix=self._prefix)
