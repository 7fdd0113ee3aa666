"""A model repository for NVIDIA Triton Server.

The names here are public: they are all that the Python model of a written repository imports.
"""

from naflex_deploy.core.errors import ImageError
from naflex_deploy.serving.triton_server.preprocessing import Preprocessor

__all__ = ["ImageError", "Preprocessor"]
