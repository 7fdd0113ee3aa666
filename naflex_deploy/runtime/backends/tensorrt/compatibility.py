"""Whether a TensorRT engine fits this machine, found out before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from naflex_deploy.runtime.backends.tensorrt.library import NAMES
from naflex_deploy.runtime.backends.tensorrt.plan import REBUILD, TARGETS, PlanHeader, refuse_foreign

AMPERE_ON = "ampere+"
"""Target of an engine built for every architecture that the library has from Ampere on."""


def no_machine(backend: str) -> str | None:
    """Why this machine runs no engine of a backend at all."""
    if reason := tensorrt_library.missing(backend):
        return reason
    device = find_device(backend)
    if isinstance(device, str):
        return device
    if backend == "tensorrt-rtx" and device.sm not in TARGETS:
        return f"TensorRT-RTX has no {device.sm} ({device.name}), only {', '.join(TARGETS)}"
    return None


def find_device(backend: str) -> cuda_device.Device | str:
    """The GPU, or why a library has none: there is none, or its driver is older than what the library was made for."""
    device, needed = cuda_device.find(), tensorrt_library.cuda_needed(backend)
    if isinstance(device, str) or needed is None or int(device.driver.partition(".")[0]) >= needed:
        return device
    return (
        f"{NAMES[backend]} was made for CUDA {needed}, found a driver for CUDA {device.driver} "
        "(CUDA calls it error 35): update the driver"
    )


def cannot_run(variant: Variant) -> str | None:
    """Why this machine cannot run a variant, by its manifest entry alone."""
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
    """Bytes of weights and of the largest profile's activations, as its builder logged them; 0 where it did not."""
    profiles = variant.build.get("profiles", [])
    return (variant.build.get("weights_bytes") or 0) + max((one["activation_bytes"] for one in profiles), default=0)


def check_plan(path: Path, variant: Variant) -> None:
    """Refuse a plan that this machine cannot run, before it is deserialised.

    Raises:
        IncompatibleError: With what was expected and what was found.
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
