"""Check, before a graph is loaded, whether ONNX Runtime can run it on this machine's GPU."""

from __future__ import annotations

from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import cuda_device

BACKEND = "onnxruntime-cuda"
PROVIDER = "CUDAExecutionProvider"

INSTALL = "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
"""Both packages install the same modules, so where both are installed, the last one has overwritten the first."""

OLDEST, OLDEST_BF16 = 75, 80
"""Oldest compute capabilities, times ten: for any graph, and for one in bf16."""

SINCE_BF16 = (1, 24)
"""First version of ONNX Runtime whose MultiHeadAttention has bf16 kernels for CUDA."""


def no_machine() -> str | None:
    """The reason why this machine can run no graph on a GPU; ``None`` where it can."""
    device = cuda_device.find()
    if isinstance(device, str):
        return device
    if _capability(device) < OLDEST:
        return f"ONNX Runtime needs sm{OLDEST} or later, found {device.sm} ({device.name})"
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        return f"the installed ONNX Runtime has no CUDA provider ({INSTALL})"
    return None


def cannot_run(variant: Variant) -> str | None:
    """The reason why this machine cannot run a variant, from its manifest entry alone; ``None`` where it can."""
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
