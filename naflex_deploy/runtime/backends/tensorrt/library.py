"""The two TensorRT libraries: which is installed here, in what version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend → Python module."""

NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def installed(backend: str) -> str | None:
    """The version of a library, ``None`` where it is not installed. Does not load it."""
    found = _distribution(backend)
    return found[1] if found else None


def cuda_needed(backend: str) -> int | None:
    """Major version of CUDA that a library was made for, ``None`` where its packages do not tell."""
    name, _ = _distribution(backend) or ("", "")
    _, _, number = name.partition("_cu")
    return int(number) if number else None


def _distribution(backend: str) -> tuple[str, str] | None:
    """Name and version of the package that holds a library."""
    module = MODULES[backend]
    # The tensorrt distribution is an empty shell unless its bindings came with it.
    if find_spec(module) is None:
        return None
    for distribution in (f"{module}_cu13", f"{module}_cu12", module):
        try:
            return distribution, version(distribution)
        except PackageNotFoundError:
            continue
    return None


def missing(backend: str) -> str | None:
    """Why a library cannot be used, ``None`` where it is installed."""
    if installed(backend):
        return None
    return f"{NAMES[backend]} is not installed (pip install 'naflex-deploy[{backend}]')"
