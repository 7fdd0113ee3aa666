"""The Python model of a Triton Server repository, which turns encoded images into the inputs of the engine.

It is copied into the repository as ``1/model.py``, beside ``manifest.json`` and ``variant.txt``. The server's Python
needs ``pip install naflex-deploy``, without extras.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from naflex_deploy.serving.triton_server import Preprocessor, respond


class TritonPythonModel:
    """Answers each request with the engine inputs of one pack."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifest of the bundle."""
        self._preprocess = Preprocessor.open(Path(args["model_repository"]) / args["model_version"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Make a pack for each request. A bad image fails only its own request."""
        return [respond(pb_utils, request, self._preprocess) for request in requests]
