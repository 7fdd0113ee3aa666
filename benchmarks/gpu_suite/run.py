"""One run of the GPU suite: its time, what it says, and what it left out."""

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
        rounds: Of every comparison.
        limit: Seconds after which nothing new is begun.
        left_out: What did not run, and why.
    """

    device: str
    rounds: int
    limit: float
    started: float = field(default_factory=time.monotonic)
    left_out: list[dict[str, str]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    def late(self, what: str) -> bool:
        """Whether there is no time for it, which is then noted."""
        if self.seconds < self.limit:
            return False
        self.leave_out(what, f"out of time: {self.limit:.0f} s were given")
        return True

    def leave_out(self, what: str, reason: object) -> None:
        line = (str(reason).splitlines() or [type(reason).__name__])[0][:300]
        self.left_out.append({"what": what, "reason": line})
        self.say(f"not run: {what}: {line}")

    def say(self, line: str) -> None:
        print(f"[{self.seconds:5.0f} s] {line}", file=sys.stderr, flush=True)

    def synchronized(self, launch: Callable[[], object]) -> Callable[[], None]:
        """The call that ends when the device is done."""

        def call() -> None:
            launch()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return call
