"""How much a scheduler may hold, and whether it would be through with it in time. No threads, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from naflex_deploy.core.errors import NaflexError, UsageError

MARGIN = 0.2
"""Part of the time to a deadline that is not counted on: for decoding, for packs that are not full, for the way."""


class ClosedError(NaflexError):
    """The scheduler takes no more images: its server is shutting down."""


class QueueFullError(NaflexError):
    """The queue has no room, or would answer after the deadline.

    Attributes:
        retry_after: Seconds after which there should be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, hint=f"send it again after {max(1, math.ceil(retry_after))} s")
        self.retry_after = retry_after


@dataclass
class Admission:
    """Tokens held, and how fast they go.

    Attributes:
        capacity: The most that may be held.
        tokens: Those decoding, waiting or running.
        rate: Tokens a second of late; 0 while nothing is known.
    """

    capacity: int
    tokens: int = 0
    rate: float = 0.0

    def check(self, tokens: int, time_left: float) -> None:
        """Whether so many more may come.

        Args:
            time_left: Seconds until their deadline.

        Raises:
            QueueFullError: There is no room, or those before them would take too long.
            UsageError: There never is so much room.
        """
        if tokens > self.capacity:
            raise UsageError(
                f"expected at most {self.capacity} tokens, the whole queue, found {tokens}", hint="send fewer images"
            )
        if self.tokens + tokens > self.capacity:
            raise QueueFullError(
                f"the queue holds {self.tokens} of {self.capacity} tokens, no room for {tokens}", self.retry_after()
            )
        if not self.tokens or not self.rate:
            return
        wait = (self.tokens + tokens) / self.rate
        if wait > (1 - MARGIN) * time_left:
            raise QueueFullError(
                f"the queue needs {wait:.2f} s, too near to the {max(time_left, 0):.2f} s allowed", self.retry_after()
            )

    def retry_after(self) -> float:
        """Seconds until half of what is held has run."""
        return self.tokens / self.rate / 2 if self.rate else 1.0

    def note(self, rate: float) -> None:
        """Take a new measurement of the rate into account."""
        self.rate = 0.8 * self.rate + 0.2 * rate if self.rate else rate
