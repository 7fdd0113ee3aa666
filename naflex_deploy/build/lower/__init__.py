"""Lowering: the portable graph rewritten for one target. One module a backend, found here by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from naflex_deploy.build.lower import onnxruntime
from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile


@dataclass(frozen=True)
class Lowering:
    """A backend that engines can be built for.

    Attributes:
        precisions: That it builds; the first is what ``auto`` means.
        unavailable: Why it cannot be built on this machine, or ``None``.
        lower: ``(portable graph, variant directory, profile, precision) → variant``, with paths relative to the
            bundle and no gate yet.
    """

    precisions: tuple[str, ...]
    unavailable: Callable[[], str | None]
    lower: Callable[[Path, Path, Profile, str], Variant]


LOWERINGS = {"onnxruntime": Lowering(onnxruntime.PRECISIONS, onnxruntime.unavailable, onnxruntime.lower)}


def choose(profile: Profile) -> tuple[str, Lowering, str]:
    """The first backend of the profile that can be built here, and its precision.

    Raises:
        IncompatibleError: None can; says why for each.
        UsageError: The backend does not build that precision.
    """
    reasons = []
    for name in profile.engine.backends:
        lowering = LOWERINGS.get(name)
        reason = "not part of this version" if lowering is None else lowering.unavailable()
        if lowering is None or reason:
            reasons.append(f"{name}: {reason}")
            continue
        wanted = profile.engine.precision
        if wanted != "auto" and wanted not in lowering.precisions:
            raise UsageError(
                f"backend {name} builds {', '.join(lowering.precisions)}, found precision {wanted}",
                hint=f"--precision {lowering.precisions[0]}",
            )
        return name, lowering, lowering.precisions[0] if wanted == "auto" else wanted
    raise IncompatibleError(
        f"no backend of the profile can be built here ({'; '.join(reasons)})", hint="try --backend onnxruntime"
    )
