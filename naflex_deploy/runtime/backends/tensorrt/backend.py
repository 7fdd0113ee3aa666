"""TensorRT and TensorRT-RTX: two libraries with the same interface, selected by the backend's name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.backend import Backend, Check
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.backends.tensorrt import compatibility, library


class TensorRT(Backend):
    precisions = ("bf16", "fp16", "fp32", "int8", "fp8")
    on_gpu = True

    def automatic(self, profile: Profile) -> str:
        """bf16, or fp16 where a target is Turing, which has no bf16."""
        return "fp16" if "sm75" in profile.engine.tensorrt.targets else "bf16"

    def cannot_build(self) -> str | None:
        """The reason why no engine can be built here. TensorRT needs a GPU for it, TensorRT-RTX does not."""
        return self.cannot_run() if self.name == "tensorrt" else library.missing(self.name)

    def cannot_run(self) -> str | None:
        return compatibility.no_machine(self.name)

    def refuses(self, variant: Variant) -> str | None:
        return compatibility.cannot_run(variant)

    def open(self, bundle: Path, variant: Variant) -> Session:
        from naflex_deploy.runtime.backends.tensorrt.session import TensorRTSession

        return TensorRTSession(bundle / variant.model, variant)

    def library(self) -> str:
        return f"{self.name} {library.installed(self.name)}"

    def checks(self) -> list[Check]:
        number = library.installed(self.name)
        if number is None:
            found: Check = (self.name, "not installed", f"pip install 'naflex-deploy[{self.name}]'")
        else:
            reason = self.cannot_run()
            found = (self.name, number, f"it runs no engine here: {reason}" if reason else "")
        return [found, _plugins(number)] if self.name == "tensorrt" else [found]


def _plugins(number: str | None) -> Check:
    what, compiler = "plugins for tensorrt", _triton()
    missing = " and ".join(name for name, found in (("tensorrt", number), ("triton", compiler)) if found is None)
    if missing:
        return (what, "unavailable", f"they need {missing}; without them engine.tensorrt.attention = 'auto' builds")
    return (what, f"triton {compiler}, tensorrt {number}", "")


def _triton() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


BACKEND = TensorRT
