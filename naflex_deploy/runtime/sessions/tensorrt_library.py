"""The two TensorRT libraries: which is installed here, in what version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend → Python module."""

NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def installed(backend: str) -> str | None:
    """The version of a library, ``None`` where it is not installed. Does not load it."""
    module = MODULES[backend]
    # The tensorrt distribution is an empty shell unless its bindings came with it.
    if find_spec(module) is None:
        return None
    for distribution in (f"{module}_cu13", f"{module}_cu12", module):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def missing(backend: str) -> str | None:
    """Why a library cannot be used, ``None`` where it is installed."""
    if installed(backend):
        return None
    return f"{NAMES[backend]} is not installed (pip install 'naflex-deploy[{backend}]')"
