"""How far a long piece of work has come, as those who do it report it and commands show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """How far a piece of work has come.

    Attributes:
        done: Units that are done: files, rows or steps, as the work counts them.
        total: Units that there are; ``None`` where that is not known before the end.
        before: Those of ``done`` that an earlier run did, which say nothing about the speed of this one.
        images, tokens: Embedded or observed by this run.
        seconds: That ``images`` and ``tokens`` took; ``None`` for the time since the work began.
    """

    done: int
    total: int | None = None
    before: int = 0
    images: float = 0
    tokens: float = 0
    seconds: float | None = None


OnProgress = Callable[[Counts], None]


def unseen(counts: Counts) -> None:
    """Show nothing."""
