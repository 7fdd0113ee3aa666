"""Write a model repository for NVIDIA Triton Server.

The names here are public, because the Python models in a repository import them and nothing else of this package. Those
that earlier versions wrote import `ImageError`.
"""

from naflex_deploy.core.errors import ImageError
from naflex_deploy.serving.triton_server.bundle_runner import BundleRunner
from naflex_deploy.serving.triton_server.preprocessing import Preprocessor
from naflex_deploy.serving.triton_server.responding import respond

__all__ = ["BundleRunner", "ImageError", "Preprocessor", "respond"]
