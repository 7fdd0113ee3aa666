"""Every backend that engines can be built for, and which of them a profile gets here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from naflex_deploy.build.lower import onnxruntime, onnxruntime_cuda, tensorrt
from naflex_deploy.build.lower.task import Task
from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.sessions import cuda_provider


@dataclass(frozen=True)
class Lowering:
    """A backend that engines can be built for.

    Attributes:
        precisions: That it builds.
        automatic: What precision ``auto`` means under a profile.
        unavailable: Why it cannot be built on this machine, or ``None``.
        cannot_run: Why what it builds cannot run on this machine, or ``None``.
        refuse: Raises an error where a profile in a precision is known not to build on this machine.
        lower: Makes a variant, with paths relative to the bundle and no gate yet.
    """

    precisions: tuple[str, ...]
    automatic: Callable[[Profile], str]
    unavailable: Callable[[], str | None]
    cannot_run: Callable[[], str | None]
    refuse: Callable[[Profile, str], None]
    lower: Callable[[Task], Variant]


LOWERINGS = {
    "onnxruntime": Lowering(
        onnxruntime.PRECISIONS,
        lambda profile: onnxruntime.PRECISIONS[0],
        onnxruntime.unavailable,
        onnxruntime.unavailable,
        lambda profile, precision: None,
        onnxruntime.lower,
    ),
    cuda_provider.BACKEND: Lowering(
        onnxruntime_cuda.PRECISIONS,
        lambda profile: onnxruntime_cuda.PRECISIONS[0],
        onnxruntime_cuda.unavailable,
        cuda_provider.no_machine,
        lambda profile, precision: None,
        onnxruntime_cuda.lower,
    ),
    **{
        backend: Lowering(
            tensorrt.PRECISIONS,
            tensorrt.automatic,
            partial(tensorrt.unavailable, backend),
            partial(tensorrt.cannot_run, backend),
            partial(tensorrt.refuse, backend),
            partial(tensorrt.lower, backend),
        )
        for backend in tensorrt.BACKENDS
    },
}


def choose(profile: Profile) -> tuple[str, Lowering, str]:
    """The first backend of the profile that can be built and run here, else the first that can be built.

    Raises:
        IncompatibleError: None can be built, says why for each; or the one that can does not build this profile.
        UsageError: The backend does not build that precision.
    """
    reasons = {name: LOWERINGS[name].unavailable() for name in profile.engine.backends}
    built = [name for name, reason in reasons.items() if reason is None]
    if not built:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise IncompatibleError(
            f"no backend of the profile can be built here ({why})", hint="try --backend onnxruntime"
        )
    name = next((name for name in built if LOWERINGS[name].cannot_run() is None), built[0])
    lowering, wanted = LOWERINGS[name], profile.engine.precision
    precision = lowering.automatic(profile) if wanted == "auto" else wanted
    if precision not in lowering.precisions:
        raise UsageError(
            f"backend {name} builds {', '.join(lowering.precisions)}, found precision {wanted}",
            hint=f"--precision {lowering.precisions[0]}",
        )
    lowering.refuse(profile, precision)
    return name, lowering, precision
