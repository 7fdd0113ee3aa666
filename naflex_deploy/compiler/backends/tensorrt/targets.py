"""Chooses the GPU architectures that an engine is built for, and refuses precisions that they lack."""

from __future__ import annotations

from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.tensorrt import plan as tensorrt_plan

OLDEST = {"bf16": 80, "fp8": 89}
"""The first architecture that has each precision."""

OLDEST_RTX = OLDEST | {"fp32": 80}
"""The same for TensorRT-RTX, which has no float32 matrix product before sm80."""


def choose_targets(backend: str, profile: Profile) -> tuple[str, ...]:
    """The architectures to build for; empty means the library's default, which is every one from Ampere on.

    Raises:
        UsageError: TensorRT was asked for a target other than the GPU at hand.
        IncompatibleError: TensorRT-RTX does not build for one of the targets.
    """
    targets = tuple(profile.engine.tensorrt.targets)
    if backend == "tensorrt":
        device = cuda_device.find()
        here = device.sm if isinstance(device, cuda_device.Device) else "no GPU"
        if targets and targets != (here,):
            raise UsageError(
                f"TensorRT builds for the GPU at hand, expected target {here}, found {', '.join(targets)}",
                hint="build on a machine with that GPU, or use --backend tensorrt-rtx",
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
        IncompatibleError: Some targets do not have the precision; names them.
    """
    oldest = (OLDEST_RTX if backend == "tensorrt-rtx" else OLDEST).get(precision, 0)
    lacking = [target for target in targets if int(target.removeprefix("sm")) < oldest]
    if lacking:
        raise IncompatibleError(
            f"{backend}: {', '.join(lacking)} has no {precision}, expected sm{oldest} or later",
            hint="--precision fp16, or leave that target out",
        )
