"""The Python model of a Triton Server repository that runs a whole bundle, for servers with no backend for its engine.

It is copied into the repository as ``1/model.py``, beside the directory ``bundle``. The server's Python needs
``pip install naflex-deploy``, with the extra of the engine if that is not ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from naflex_deploy.serving.triton_server import BundleRunner, respond


class TritonPythonModel:
    """Answers each request with the bundle's outputs for its images."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle."""
        self._run = BundleRunner.open(Path(args["model_repository"]) / args["model_version"] / "bundle")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the images of each request. A bad image fails only its own request."""
        return [respond(pb_utils, request, self._run) for request in requests]
