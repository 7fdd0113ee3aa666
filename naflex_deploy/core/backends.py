"""The registry of backends. Adding one takes a line here and a folder of that name on either side."""

from __future__ import annotations

FOLDERS = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt",
    "onnxruntime-cuda": "onnxruntime_cuda",
    "onnxruntime": "onnxruntime",
}
"""Backend → its folder in ``runtime/backends/`` and ``compiler/backends/``, in profiles' order of preference."""
