"""The task that a backend is given to lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.profile import Profile

EIGHT_BITS = ("int8", "fp8")
"""Precisions that need a calibration."""


@dataclass(frozen=True)
class Task:
    """One variant to make.

    Attributes:
        portable: The portable graph.
        directory: The bundle's ``variants`` directory, in which the variant gets a directory of its own.
        profile: The profile, with budgets, targets and limits.
        precision: A precision that the backend builds.
        prefix: Prefix tokens of the model.
        report: Called with a line as work proceeds.
        calibration: The calibration from which int8 and fp8 take their ranges.
    """

    portable: Path
    directory: Path
    profile: Profile
    precision: str
    prefix: int = 0
    report: Callable[[str], None] = lambda step: None
    calibration: QuantSpec | None = None

    def calibrated(self) -> QuantSpec:
        """The calibration.

        Raises:
            UsageError: There is none; the hint says how to make one.
        """
        if self.calibration is None:
            raise missing_calibration(self.precision, self.profile)
        return self.calibration


def missing_calibration(precision: str, profile: Profile) -> UsageError:
    """The error for a missing calibration, whose hint says how to make one."""
    return UsageError(
        f"precision {precision} needs a calibration, found none",
        hint=f"make one with `naflex-deploy calibrate --profile {profile.name} --model SPEC --images DIR "
        "-o calibration.json`, then pass --calibration calibration.json",
    )
