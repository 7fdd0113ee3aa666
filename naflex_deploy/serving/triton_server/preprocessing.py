"""Turn encoded images into the inputs of an engine, for a Python model of Triton Server."""

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
"""Name of the file, next to the manifest, that holds the name of the variant."""

GRIDS = "image_grid_hw"
"""Name of the output with the rows and columns of each image's patch grid."""


class Preprocessor:
    """Decodes, fits and cuts the images of a request, and lays them out as one pack.

    Args:
        manifest: Manifest of the bundle.
        variant: The variant whose inputs are computed.
    """

    def __init__(self, manifest: Manifest, variant: Variant) -> None:
        self._variant = variant
        self._prepare = Preparer.of(manifest, variant)
        self._prefix = manifest.model.prefix

    @classmethod
    def open(cls, folder: Path) -> Preprocessor:
        """Read the manifest and the name of the variant from the directory of a model version."""
        manifest = Manifest.read(folder)
        return cls(manifest, manifest.variant((folder / VARIANT).read_text(encoding="utf-8").strip()))

    def __call__(self, images: Sequence[bytes]) -> dict[str, npt.NDArray[np.generic]]:
        """Compute the engine's inputs by name, and `GRIDS` [N, 2] int32.

        Raises:
            ImageError: An image cannot be used, there are no images, or they do not fit into one pack.
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
                f"expected at most {self._variant.budgets[-1]} tokens per request, found {tokens}",
                hint="send fewer images at once",
            )
        return Pack.of(patches, prefix=self._prefix)
