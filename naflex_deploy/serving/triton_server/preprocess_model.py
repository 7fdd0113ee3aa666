"""The Python model of a Triton Server repository: encoded images to the inputs of the engine.

Copied into the repository as ``1/model.py``; ``manifest.json`` and ``variant.txt`` lie beside it. The server's Python
needs ``pip install naflex-deploy``, without extras.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.manifest import Manifest
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.packing.prepare import Preparer


class TritonPythonModel:
    """Decodes, fits and cuts the images of a request, and lays them out as one pack."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifest of the bundle."""
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = Manifest.read(folder)
        self._variant = manifest.variant((folder / "variant.txt").read_text(encoding="utf-8").strip())
        self._prepare = Preparer.of(manifest, self._variant)
        self._prefix = manifest.model.prefix

    def execute(self, requests: list[Any]) -> list[Any]:
        """A pack for each request; a bad image fails its request alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        images = pb_utils.get_input_tensor_by_name(request, "images").as_numpy().reshape(-1)
        try:
            pack = self._pack([bytes(image) for image in images])
        except ImageError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [
            pb_utils.Tensor(spec.role.value, np.ascontiguousarray(pack.view(spec.role)))
            for spec in self._variant.inputs
        ]
        grids = pb_utils.Tensor("image_grid_hw", np.ascontiguousarray(pack.grid_hw))
        return pb_utils.InferenceResponse(output_tensors=[*tensors, grids])

    def _pack(self, images: list[bytes]) -> Pack:
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
