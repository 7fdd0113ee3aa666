"""Check whether this machine can run a TensorRT engine, before any of it is loaded."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from naflex_deploy.runtime.backends.tensorrt.library import NAMES
from naflex_deploy.runtime.backends.tensorrt.plan import REBUILD, TARGETS, PlanHeader, refuse_foreign

AMPERE_ON = "ampere+"
"""Target of an engine that was built for every architecture from Ampere on that the library supports."""


def no_machine(backend: str) -> str | None:
    """The reason why this machine can run no engine of a backend; ``None`` where it can run some."""
    if reason := tensorrt_library.missing(backend):
        return reason
    device = find_device(backend)
    if isinstance(device, str):
        return device
    if backend == "tensorrt-rtx" and device.sm not in TARGETS:
        return f"TensorRT-RTX supports {', '.join(TARGETS)}, found {device.sm} ({device.name})"
    return None


def find_device(backend: str) -> cuda_device.Device | str:
    """The GPU, or the reason why a backend cannot use one: there is none, or its driver is older than the library."""
    device, needed = cuda_device.find(), tensorrt_library.cuda_needed(backend)
    if isinstance(device, str) or needed is None or int(device.driver.partition(".")[0]) >= needed:
        return device
    return (
        f"{NAMES[backend]} was built for CUDA {needed}, found a driver for CUDA {device.driver} "
        "(CUDA calls it error 35): update the driver"
    )


def cannot_run(variant: Variant) -> str | None:
    """The reason why this machine cannot run a variant, from its manifest entry alone; ``None`` where it can."""
    if reason := tensorrt_library.missing(variant.backend):
        return reason
    built, here = variant.versions.get(variant.backend), tensorrt_library.installed(variant.backend)
    if built != here:
        return f"it needs {NAMES[variant.backend]} {built}, found {here}"
    device = find_device(variant.backend)
    if isinstance(device, str):
        return device
    targets = tuple(TARGETS)[1:] if variant.target == AMPERE_ON else tuple(variant.target.split("+"))
    if device.sm not in targets:
        return f"it was built for {', '.join(targets)}, found {device.sm} ({device.name})"
    if (needed := memory_needed(variant)) > device.memory:
        return f"it needs {needed / 1e9:.1f} GB of GPU memory, found {device.memory / 1e9:.1f} GB ({device.name})"
    return None


def memory_needed(variant: Variant) -> int:
    """Bytes of weights plus activations of the largest profile, as the builder logged them; 0 where it did not."""
    profiles = variant.build.get("profiles", [])
    return (variant.build.get("weights_bytes") or 0) + max((one["activation_bytes"] for one in profiles), default=0)


def check_plan(path: Path, variant: Variant) -> None:
    """Refuse a plan that this machine cannot run, before it is deserialised.

    Raises:
        IncompatibleError: The plan does not fit this machine; the message says what was expected and found.
        BundleError: The plan is truncated.
    """
    if reason := cannot_run(variant):
        raise IncompatibleError(f"variant '{variant.name}' cannot run here: {reason}", hint=REBUILD)
    if variant.backend == "tensorrt":
        refuse_foreign(path)
        return
    header = PlanHeader.read(path)
    built, device = variant.versions[variant.backend], cuda_device.find()
    if header.version != built:
        raise IncompatibleError(
            f"{path}: expected a plan of TensorRT-RTX {built}, found one of {header.version}", hint=REBUILD
        )
    if isinstance(device, cuda_device.Device) and device.sm not in header.targets:
        raise IncompatibleError(
            f"{path}: expected a plan for {device.sm}, found one for {', '.join(header.targets)}", hint=REBUILD
        )
