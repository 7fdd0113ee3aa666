"""Write a model repository for NVIDIA Triton Server.

The names here are public, because the Python model in a repository imports them and nothing else of this package.
"""

from naflex_deploy.core.errors import ImageError
from naflex_deploy.serving.triton_server.preprocessing import Preprocessor

__all__ = ["ImageError", "Preprocessor"]
