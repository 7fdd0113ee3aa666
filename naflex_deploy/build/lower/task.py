"""What a backend is given to lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from naflex_deploy.core.profile import Profile


@dataclass(frozen=True)
class Task:
    """One variant to make.

    Attributes:
        portable: The portable graph.
        directory: ``…/variants``; the variant gets a directory of its own in it.
        profile: Budgets, targets, limits.
        precision: One that the backend builds.
        prefix: Prefix tokens of the model.
        report: Called with a line as work goes on.
    """

    portable: Path
    directory: Path
    profile: Profile
    precision: str
    prefix: int = 0
    report: Callable[[str], None] = lambda step: None
