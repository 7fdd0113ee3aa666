"""ONNX Runtime on an NVIDIA GPU. Its graphs can be built on any machine."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends.backend import Backend, Check
from naflex_deploy.runtime.backends.onnxruntime_cuda import provider
from naflex_deploy.runtime.backends.session import Session


class OnnxRuntimeCuda(Backend):
    precisions = ("fp16", "bf16", "fp32")
    on_gpu = True

    def cannot_run(self) -> str | None:
        return provider.no_machine()

    def refuses(self, variant: Variant) -> str | None:
        return provider.cannot_run(variant)

    def open(self, bundle: Path, variant: Variant) -> Session:
        from naflex_deploy.runtime.backends.onnxruntime_cuda.session import OnnxRuntimeCudaSession

        return OnnxRuntimeCudaSession(bundle / variant.model, variant, weights=bundle)

    def library(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def checks(self) -> list[Check]:
        if reason := self.cannot_run():
            return [(self.name, "unavailable", f"it runs no engine here: {reason}")]
        return [(self.name, "available", "")]


BACKEND = OnnxRuntimeCuda
