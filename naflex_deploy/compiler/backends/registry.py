"""Chooses the backend that a profile gets on this machine."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import cast

from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime import backends

EVERYWHERE = "onnxruntime"
"""Every machine has this backend, as the runtime depends on it."""


@cache
def lowering_of(name: str) -> Lowering:
    """The lowering of a backend in `FOLDERS`, which is ``LOWERING`` of its folder's ``lowering.py``."""
    module = import_module(f"naflex_deploy.compiler.backends.{FOLDERS[name]}.lowering")
    return cast(Lowering, module.LOWERING(backends.find(name)))


def choose(profile: Profile) -> tuple[Lowering, str]:
    """Choose the profile's first backend that can be built and run here, else the first that can be built.

    Returns:
        The backend's lowering, and the precision to build in.

    Raises:
        IncompatibleError: No backend can be built, with the reason for each; or the chosen one cannot build this
            profile.
        UsageError: The backend does not build that precision.
    """
    wanted = [backends.find(name) for name in profile.engine.backends]
    reasons = {backend.name: backend.cannot_build() for backend in wanted}
    built = [backend for backend in wanted if reasons[backend.name] is None]
    if not built:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise IncompatibleError(
            f"no backend of the profile can be built here ({why})", hint="try --backend onnxruntime"
        )
    usable = [backend for backend in built if backend.cannot_run() is None] or built[:1]
    asked = profile.engine.precision
    if asked == "auto":
        offers = [(backend, offer) for backend in usable if (offer := backend.automatic(profile)) is not None]
        backend, precision = offers[0] if offers else (usable[0], usable[0].precisions[0])
    else:
        backend, precision = usable[0], asked
    if precision not in backend.precisions:
        raise UsageError(
            f"backend {backend.name} builds {', '.join(backend.precisions)}, found precision {precision}",
            hint=f"--precision {backend.precisions[0]}",
        )
    lowering = lowering_of(backend.name)
    lowering.refuse(profile, precision)
    return lowering, precision


def choose_all(profile: Profile) -> list[tuple[Lowering, str]]:
    """What a build makes: the engine that `choose` names, and a second one where that runs on few machines only.

    The second is ONNX Runtime in fp32, where the profile leaves the precision to the machine and lists that backend.

    Raises:
        IncompatibleError, UsageError: See `choose`.
    """
    first = choose(profile)
    runs_everywhere = first[0].backend.name == EVERYWHERE and first[1] != "bf16"
    if runs_everywhere or profile.engine.precision != "auto" or EVERYWHERE not in profile.engine.backends:
        return [first]
    return [first, (lowering_of(EVERYWHERE), "fp32")]
