"""OpenVINO on a CPU: the backend that has bf16 where the CPU has it."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from naflex_deploy.core.machine import bf16_units
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.backend import Backend, Check
from naflex_deploy.runtime.backends.openvino import model
from naflex_deploy.runtime.backends.session import Session

SINCE = (2026, 0)
"""First version that was run."""

INSTALL = "pip install 'naflex-deploy[openvino]'"

CAPABILITY = {"bf16": "BF16", "fp16": "FP16"}
"""What OpenVINO calls the units that a precision needs."""


class OpenVino(Backend):
    precisions = ("fp32", "bf16", "fp16", "int8")

    def automatic(self, profile: Profile) -> str | None:
        """bf16 where the CPU has it. In fp32, OpenVINO is no faster than ONNX Runtime."""
        return "bf16" if self.lacks("bf16") is None else None

    def cannot_build(self) -> str | None:
        return self.cannot_run()

    def cannot_run(self) -> str | None:
        if find_spec("openvino") is None:
            return f"the package 'openvino' is not installed ({INSTALL})"
        found = tuple(map(int, model.version_of_library().split(".")[:2]))
        if found < SINCE:
            return f"OpenVINO {model.version_of_library()} was never run, expected {'.'.join(map(str, SINCE))} or later"
        return None

    def lacks(self, precision: str) -> str | None:
        needed = CAPABILITY.get(precision)
        if needed is not None and needed not in model.capabilities():
            units = "AVX512-BF16 or AMX" if precision == "bf16" else "AMX-FP16"
            return f"this CPU has no units for {precision} ({units})"
        return None

    def open(self, bundle: Path, variant: Variant) -> Session:
        from naflex_deploy.runtime.backends.openvino.session import OpenVinoSession

        return OpenVinoSession(bundle, variant)

    def library(self) -> str:
        return model.library()

    def checks(self) -> list[Check]:
        if reason := self.cannot_run():
            return [(self.name, "unavailable", opportunity() or f"runs no engine here: {reason}")]
        runs = [p for p in self.precisions if self.lacks(p) is None]
        return [(self.name, f"{model.version_of_library()} ({', '.join(runs)})", "")]


def opportunity() -> str:
    """What OpenVINO would make of this CPU, for one who has not installed it; empty where there is nothing to gain."""
    units = bf16_units()
    if not units or find_spec("openvino") is not None or platform.machine() not in ("x86_64", "AMD64"):
        return ""
    return f"this CPU has {units}: {INSTALL} makes packs about {GAIN[units]} times as fast"


GAIN = {"AMX": 3, "AVX512-BF16": 1.9}
"""How many times as fast as float32 packs run in bf16."""

BACKEND = OpenVino
