"""Running a pack on an engine: one module a backend, all of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.machine import cpu_name, system_name
from naflex_deploy.core.manifest import Executed, Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.sessions import cuda_device, cuda_provider, tensorrt_compatibility, tensorrt_library

Outputs = dict[str, npt.NDArray[np.generic]]


class Session(Protocol):
    """A loaded engine."""

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        """Run one pack.

        Args:
            pack: Within the largest budget.
            outputs: Names to return.

        Returns:
            Per-image outputs [M, …] and per-token outputs [T, …] by name.
        """
        ...


@runtime_checkable
class SideBySide(Session, Protocol):
    """A session whose packs are best run several at once, each on a core of its own, when there are enough.

    Attributes:
        workers: How many at once.
        worker_is_loaded: Whether `worker` was called.
    """

    workers: int
    worker_is_loaded: bool

    def worker(self) -> Session:
        """What runs them, called from as many threads; loaded by the first call."""
        ...


@runtime_checkable
class OnDevice(Session, Protocol):
    """A session that can leave outputs in GPU memory."""

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """As `run`, but each output is an object that speaks DLPack, in memory of its own."""
        ...


def open_session(bundle: Path, variant: Variant) -> Session:
    """Load a variant's engine; its files have been checked already.

    Raises:
        IncompatibleError: The machine cannot run it.
    """
    if variant.backend == "onnxruntime":
        from naflex_deploy.runtime.sessions.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle / variant.model, variant, weights=bundle)
    if variant.backend == cuda_provider.BACKEND:
        from naflex_deploy.runtime.sessions.onnxruntime_cuda import OnnxRuntimeCudaSession

        return OnnxRuntimeCudaSession(bundle / variant.model, variant, weights=bundle)
    if variant.backend in tensorrt_library.MODULES:
        from naflex_deploy.runtime.sessions.tensorrt import TensorRTSession

        return TensorRTSession(bundle / variant.model, variant)
    raise IncompatibleError(
        f"variant '{variant.name}': {cannot_run(variant)}",
        hint="upgrade naflex-deploy, or build a variant with --backend onnxruntime",
    )


def cannot_run(variant: Variant) -> str | None:
    """Why this machine cannot run a variant, or ``None`` where it can, without loading its engine."""
    if variant.backend in tensorrt_library.MODULES:
        return tensorrt_compatibility.cannot_run(variant)
    if variant.backend == cuda_provider.BACKEND:
        return cuda_provider.cannot_run(variant)
    return None if variant.backend == "onnxruntime" else f"this version cannot run backend '{variant.backend}'"


def executed_by(backend: str) -> Executed:
    """This machine and the library of a backend."""
    if backend in tensorrt_library.MODULES:
        library = f"{backend} {tensorrt_library.installed(backend)}"
    else:
        import onnxruntime

        library = f"onnxruntime {onnxruntime.__version__}"
    gpu = "" if backend == "onnxruntime" else str(cuda_device.find())
    return Executed(cpu=cpu_name(), system=system_name(), runtime=library, gpu=gpu)
