"""ONNX Runtime on a CPU. It runs everywhere, because the runtime depends on it."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends.backend import Backend, Check
from naflex_deploy.runtime.backends.session import Session


class OnnxRuntime(Backend):
    precisions = ("fp32", "int8")

    def cannot_run(self) -> str | None:
        return None

    def open(self, bundle: Path, variant: Variant) -> Session:
        from naflex_deploy.runtime.backends.onnxruntime.session import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle / variant.model, variant, weights=bundle)

    def library(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def checks(self) -> list[Check]:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        return [(self.name, f"{onnxruntime.__version__} ({providers})", "")]


BACKEND = OnnxRuntime
