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
    backend = next((backend for backend in built if backend.cannot_run() is None), built[0])
    asked = profile.engine.precision
    precision = backend.automatic(profile) if asked == "auto" else asked
    if precision not in backend.precisions:
        raise UsageError(
            f"backend {backend.name} builds {', '.join(backend.precisions)}, found precision {precision}",
            hint=f"--precision {backend.precisions[0]}",
        )
    lowering = lowering_of(backend.name)
    lowering.refuse(profile, precision)
    return lowering, precision
