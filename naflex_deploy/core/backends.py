"""The registry of backends. Adding one takes a line here, and a folder each in the runtime and the compiler."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

FOLDERS = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt",
    "onnxruntime-cuda": "onnxruntime_cuda",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
}
"""Each backend's folder in ``runtime/backends/`` and ``compiler/backends/``, in the default order of preference."""

PACKAGES = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
}
"""The packages that bring each backend, any one of which is enough."""


def installed() -> dict[str, str]:
    """The package and version of each backend, empty where it is not installed; nothing is imported."""
    return {backend: next(filter(None, map(_version, packages)), "") for backend, packages in PACKAGES.items()}


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""
