"""Decide whether a scheduler can take more images and run them in time. Uses no threads and no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from naflex_deploy.core.errors import NaflexError, UsageError

MARGIN = 0.2
"""Share of the time to a deadline kept in reserve: for decoding, for packs that are not full, for the network."""

DECODE_WAIT = 0.1
"""Share of the time that a full pack takes, for which an idle engine waits for images that are being decoded."""


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
    """The images that a scheduler holds, and how fast it decodes and runs them.

    Attributes:
        capacity: Maximum number of tokens held at a time.
        decoders: Number of images that are decoded at a time.
        tokens: Number of tokens that are decoding, waiting or running.
        decoding: Number of images that are decoding, or wait for it.
        rate: Recent throughput of the engine in tokens per second; 0 until the first measurement.
        decode_seconds: Recent time to decode one image.
    """

    capacity: int
    decoders: int = 1
    tokens: int = 0
    decoding: int = 0
    rate: float = 0.0
    decode_seconds: float = 0.0

    def check(self, tokens: int, time_left: float, images: int = 1) -> None:
        """Check whether this many more tokens can be admitted.

        Args:
            tokens: Number of tokens to admit.
            time_left: Seconds until their deadline, or until they should be answered. `MARGIN` of it is in reserve.
            images: Number of images that they belong to, all of which may have to be decoded.

        Raises:
            QueueFullError: There is no room, or what is ahead in the queue would take too long.
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
        if not self.tokens:
            return
        # Decoding and running go on side by side.
        wait = (self.tokens + tokens) / self.rate if self.rate else 0.0
        if self.decoding:
            wait = max(wait, (self.decoding + images) * self.decode_seconds / self.decoders)
        if wait > (1 - MARGIN) * time_left:
            raise QueueFullError(
                f"the queue needs {wait:.2f} s, which is too close to the deadline in {max(time_left, 0):.2f} s",
                self.retry_after(),
            )

    def decode_wait(self, tokens: int) -> float:
        """Seconds that an idle engine waits for a fuller pack because images are being decoded; 0 where none are.

        Args:
            tokens: Number of tokens that fill all of the packs that run at once.
        """
        return DECODE_WAIT * tokens / self.rate if self.decoding and self.rate else 0.0

    def retry_after(self) -> float:
        """Estimated seconds until half of the held tokens have run."""
        return self.tokens / self.rate / 2 if self.rate else 1.0

    def note(self, tokens: int, seconds: float, budget: int) -> None:
        """Learn from tokens that ran in so many seconds, in packs of at most ``budget`` tokens.

        Small packs say little about the throughput under load, unless they are faster than what is known: a rate that
        was measured too low lets so few tokens in that packs stay small.
        """
        if seconds > 0 and (2 * tokens >= budget or tokens > self.rate * seconds):
            self.rate = _smoothed(self.rate, tokens / seconds)

    def note_decoding(self, seconds: float) -> None:
        """Learn from an image that was decoded in so many seconds."""
        self.decode_seconds = _smoothed(self.decode_seconds, seconds)


def _smoothed(known: float, found: float) -> float:
    return 0.8 * known + 0.2 * found if known else found
