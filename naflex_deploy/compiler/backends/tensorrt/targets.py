"""Architectures that an engine is built for, and what they have no kernels for."""

from __future__ import annotations

from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.tensorrt import plan as tensorrt_plan

OLDEST = {"bf16": 80, "fp8": 89}
"""Precision → first architecture that has it."""

OLDEST_RTX = OLDEST | {"fp32": 80}
"""TensorRT-RTX has no float32 matrix product before."""


def choose_targets(backend: str, profile: Profile) -> tuple[str, ...]:
    """Architectures to build for; none means the library's default, which is every one from Ampere on.

    Raises:
        UsageError: One that the library does not build for.
    """
    targets = tuple(profile.engine.tensorrt.targets)
    if backend == "tensorrt":
        device = cuda_device.find()
        here = device.sm if isinstance(device, cuda_device.Device) else "no GPU"
        if targets and targets != (here,):
            raise UsageError(
                f"TensorRT builds for the GPU at hand, expected target {here}, found {', '.join(targets)}",
                hint="build on a machine with that GPU, or take --backend tensorrt-rtx",
            )
        return (here,)
    for target in targets:
        if target not in tensorrt_plan.TARGETS:
            raise IncompatibleError(
                f"TensorRT-RTX has no {target}, expected some of {', '.join(tensorrt_plan.TARGETS)}",
                hint="--backend tensorrt, on a machine with that GPU" if target in ("sm90", "sm100") else "--target",
            )
    return tuple(target for target in tensorrt_plan.TARGETS if target in targets)


def refuse_precision(backend: str, targets: tuple[str, ...], precision: str) -> None:
    """Refuse a precision that one of the targets does not have.

    Raises:
        IncompatibleError: Names them.
    """
    oldest = (OLDEST_RTX if backend == "tensorrt-rtx" else OLDEST).get(precision, 0)
    lacking = [target for target in targets if int(target.removeprefix("sm")) < oldest]
    if lacking:
        raise IncompatibleError(
            f"{backend}: {', '.join(lacking)} has no {precision}, expected sm{oldest} or later",
            hint="--precision fp16, or leave that target out",
        )
