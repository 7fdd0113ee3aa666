"""Whether ONNX Runtime runs graphs on the GPU at hand, found out before one is loaded."""

from __future__ import annotations

from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import cuda_device

BACKEND = "onnxruntime-cuda"
PROVIDER = "CUDAExecutionProvider"

INSTALL = "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
"""The two packages hold the same modules: beside each other, the one installed last is the one there."""

OLDEST, OLDEST_BF16 = 75, 80
"""Compute capabilities, ten times the number."""

SINCE_BF16 = (1, 24)
"""First version of ONNX Runtime whose MultiHeadAttention has kernels of bf16 for CUDA."""


def no_machine() -> str | None:
    """Why this machine runs no graph on a GPU at all."""
    device = cuda_device.find()
    if isinstance(device, str):
        return device
    if _capability(device) < OLDEST:
        return f"ONNX Runtime needs sm{OLDEST} or later, found {device.sm} ({device.name})"
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        return f"this build of ONNX Runtime has no CUDA ({INSTALL})"
    return None


def cannot_run(variant: Variant) -> str | None:
    """Why this machine cannot run a variant, by its manifest entry alone."""
    if reason := no_machine():
        return reason
    device = cuda_device.find()
    if variant.precision == "bf16" and isinstance(device, cuda_device.Device) and _capability(device) < OLDEST_BF16:
        return f"it needs bf16, which {device.sm} ({device.name}) does not have"
    import onnxruntime

    number = onnxruntime.__version__
    if variant.precision == "bf16" and tuple(map(int, number.split(".")[:2])) < SINCE_BF16:
        return f"attention in bf16 needs ONNX Runtime {'.'.join(map(str, SINCE_BF16))} or later, found {number}"
    return None


def _capability(device: cuda_device.Device) -> int:
    return int(device.sm.removeprefix("sm"))
