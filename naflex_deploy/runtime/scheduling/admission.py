"""Decide whether a scheduler can take more images and run them in time. Uses no threads and no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from naflex_deploy.core.errors import NaflexError, UsageError

MARGIN = 0.2
"""Share of the time to a deadline kept in reserve: for decoding, for packs that are not full, for the network."""


class ClosedError(NaflexError):
    """The scheduler takes no more images, because its server is shutting down."""


class QueueFullError(NaflexError):
    """The queue has no room, or would answer only after the deadline.

    Attributes:
        retry_after: Seconds after which the queue should have room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, hint=f"send it again after {max(1, math.ceil(retry_after))} s")
        self.retry_after = retry_after


@dataclass
class Admission:
    """The tokens that a scheduler holds, and how fast it runs them.

    Attributes:
        capacity: Maximum number of tokens held at a time.
        tokens: Number of tokens that are decoding, waiting or running.
        rate: Recent throughput in tokens per second; 0 until the first measurement.
    """

    capacity: int
    tokens: int = 0
    rate: float = 0.0

    def check(self, tokens: int, time_left: float) -> None:
        """Check whether this many more tokens can be admitted.

        Args:
            tokens: Number of tokens to admit.
            time_left: Seconds until their deadline.

        Raises:
            QueueFullError: There is no room, or the tokens ahead in the queue would take too long.
            UsageError: They exceed the capacity of the whole queue.
        """
        if tokens > self.capacity:
            raise UsageError(
                f"expected at most {self.capacity} tokens, the capacity of the queue, found {tokens}",
                hint="send fewer images",
            )
        if self.tokens + tokens > self.capacity:
            raise QueueFullError(
                f"the queue holds {self.tokens} of {self.capacity} tokens and has no room for {tokens} more",
                self.retry_after(),
            )
        if not self.tokens or not self.rate:
            return
        wait = (self.tokens + tokens) / self.rate
        if wait > (1 - MARGIN) * time_left:
            raise QueueFullError(
                f"the queue needs {wait:.2f} s, which is too close to the deadline in {max(time_left, 0):.2f} s",
                self.retry_after(),
            )

    def retry_after(self) -> float:
        """Estimated seconds until half of the held tokens have run."""
        return self.tokens / self.rate / 2 if self.rate else 1.0

    def note(self, rate: float) -> None:
        """Update the rate with a new measurement, in tokens per second."""
        self.rate = 0.8 * self.rate + 0.2 * rate if self.rate else rate
