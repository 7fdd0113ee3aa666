"""ONNX Runtime on a CPU. It runs everywhere, because the runtime depends on it."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.machine import has_arm_bf16
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.backend import Backend, Check
from naflex_deploy.runtime.backends.session import Session


class OnnxRuntime(Backend):
    precisions = ("fp32", "bf16", "int8")

    def automatic(self, profile: Profile) -> str | None:
        """bf16 on Arm CPUs that have it."""
        return "bf16" if self.lacks("bf16") is None else "fp32"

    def cannot_run(self) -> str | None:
        return None

    def lacks(self, precision: str) -> str | None:
        if precision == "bf16" and not has_arm_bf16():
            return "ONNX Runtime has products in bf16 for Arm CPUs with bf16 alone"
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
