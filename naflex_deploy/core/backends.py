"""The registry of backends. Adding one takes a line here, and a folder each in the runtime and the compiler."""

from __future__ import annotations

FOLDERS = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt",
    "onnxruntime-cuda": "onnxruntime_cuda",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
}
"""Each backend's folder in ``runtime/backends/`` and ``compiler/backends/``, in the default order of preference."""
