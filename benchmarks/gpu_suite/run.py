"""One run of the GPU suite, which keeps the time, reports progress, and records what was left out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Run:
    """One run of the suite.

    Attributes:
        device: ``cuda`` or ``cpu``.
        rounds: Number of rounds of every comparison.
        limit: Seconds after which nothing new is started.
        started: Time at which the run started.
        left_out: What did not run, with the reason.
    """

    device: str
    rounds: int
    limit: float
    started: float = field(default_factory=time.monotonic)
    left_out: list[dict[str, str]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self.started

    def late(self, what: str) -> bool:
        """Whether no time is left, in which case ``what`` is recorded as left out."""
        if self.seconds < self.limit:
            return False
        self.leave_out(what, f"out of time: the limit of {self.limit:.0f} s was reached")
        return True

    def leave_out(self, what: str, reason: object) -> None:
        line = (str(reason).splitlines() or [type(reason).__name__])[0][:300]
        self.left_out.append({"what": what, "reason": line})
        self.say(f"not run: {what}: {line}")

    def say(self, line: str) -> None:
        print(f"[{self.seconds:5.0f} s] {line}", file=sys.stderr, flush=True)

    def synchronized(self, launch: Callable[[], object]) -> Callable[[], None]:
        """A call that returns only when the device is done."""

        def call() -> None:
            launch()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return call
