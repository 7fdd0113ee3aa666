"""Find which of the two TensorRT libraries are installed, and in which version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python module of each backend."""

NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def installed(backend: str) -> str | None:
    """Version of a backend's library, found without loading it; ``None`` where it is not installed."""
    found = _distribution(backend)
    return found[1] if found else None


def cuda_needed(backend: str) -> int | None:
    """Major version of CUDA that a backend's library was built for; ``None`` where the package name does not say."""
    name, _ = _distribution(backend) or ("", "")
    _, _, number = name.partition("_cu")
    return int(number) if number else None


def _distribution(backend: str) -> tuple[str, str] | None:
    """Name and version of the package that installed a backend's library; ``None`` where there is none."""
    module = MODULES[backend]
    # The distribution named tensorrt is empty unless the bindings are installed with it.
    if find_spec(module) is None:
        return None
    for distribution in (f"{module}_cu13", f"{module}_cu12", module):
        try:
            return distribution, version(distribution)
        except PackageNotFoundError:
            continue
    return None


def missing(backend: str) -> str | None:
    """The reason why a backend's library cannot be used; ``None`` where it is installed."""
    if installed(backend):
        return None
    return f"{NAMES[backend]} is not installed (pip install 'naflex-deploy[{backend}]')"
