"""A queue of images that wait for an engine, and the choice of those that form the next pack.

It uses no threads and no clock, so a simulation runs the same code as a server.

Packs form continuously. A pack takes the first image in line, then images behind it that still fit, looking at a
bounded number of them; where several engines are idle, each takes its share. An image is therefore overtaken only while
a pack that it does not fit into fills up, and an image with n others ahead of it runs in one of the next n + 1 packs.
Priority is a head start in seconds: it moves an image ahead of those that arrived up to that much earlier, and of no
others, so low priority never waits forever.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from naflex_deploy.core.errors import ImageError, NaflexError
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.scheduling.decoders import Apart


class DeadlineError(NaflexError):
    """A request's deadline has passed."""

    @classmethod
    def of(cls, ticket: Ticket, now: float) -> DeadlineError:
        return cls(f"the deadline passed before the image ran, after {now - ticket.arrival:.2f} s")


@dataclass(frozen=True)
class Policy:
    """When packs are formed, and how much may wait.

    Attributes:
        queue_tokens: Maximum number of tokens decoding, waiting or running; 0 for 32 times the largest budget.
        max_wait: Seconds that an idle engine waits for a pack to fill up.
        look_ahead: Maximum number of images skipped in search of one that fits; 0 is first in, first out.
        head_start: Seconds of head start per step of priority.
    """

    queue_tokens: int = 0
    max_wait: float = 0.002
    look_ahead: int = 128
    head_start: float = 1.0


@dataclass(eq=False)
class Ticket:
    """One image on its way through the queue.

    Attributes:
        tokens: Number of its tokens, prefix tokens included; an upper bound until it is decoded.
        outputs: Names of the requested outputs.
        arrival, deadline: Times on the scheduler's clock, in seconds.
        order: Arrival minus head start; the queue is sorted by it.
        future: Receives the result.
        patches: The patches, once the image is decoded.
        queued: Time at which it was decoded and could be packed.
        waiting: Whether it is in the queue.
    """

    tokens: int
    outputs: tuple[str, ...]
    arrival: float
    deadline: float = math.inf
    order: float = 0.0
    future: Future[Any] = field(default_factory=Future)
    patches: Patches | None = None
    queued: float = 0.0
    waiting: bool = False

    def decoded(self, work: Callable[[], Patches | Apart], prefix: int, now: float) -> Patches | Apart:
        """The patches that ``work`` returns, or the rest of it.

        Args:
            prefix: Number of prefix tokens of the model.
            now: Time on the scheduler's clock.

        Raises:
            DeadlineError: The deadline has passed already.
            ImageError: They are more than the ticket has tokens.
        """
        if self.deadline <= now:
            raise DeadlineError.of(self, now)
        found = work()
        if isinstance(found, Patches) and prefix + len(found) > self.tokens:
            raise ImageError(f"expected at most {self.tokens - prefix} patches, found {len(found)}")
        return found


class PackQueue:
    """A queue of tickets for packs of at most ``budget`` tokens and ``max_images`` images."""

    def __init__(self, budget: int, max_images: int, policy: Policy = Policy()) -> None:
        self.budget = budget
        self.max_images = max_images
        self.policy = policy
        self.tokens = 0
        self.images = 0
        self._line: list[tuple[float, int, Ticket]] = []
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._number = itertools.count()

    def put(self, ticket: Ticket, now: float) -> None:
        """Add a ticket of at most ``budget`` tokens."""
        number = next(self._number)
        ticket.waiting, ticket.queued = True, now
        self.tokens += ticket.tokens
        self.images += 1
        heapq.heappush(self._line, (ticket.order, number, ticket))
        if ticket.deadline < math.inf:
            heapq.heappush(self._deadlines, (ticket.deadline, number, ticket))

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket, which may have been removed already."""
        if ticket.waiting:
            ticket.waiting = False
            self.tokens -= ticket.tokens
            self.images -= 1
        if len(self._line) > 2 * self.images + self.policy.look_ahead:
            self._line = [entry for entry in self._line if entry[2].waiting]
            heapq.heapify(self._line)
        if len(self._deadlines) > 2 * self.images + self.policy.look_ahead:
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapq.heapify(self._deadlines)

    def expired(self, now: float) -> list[Ticket]:
        """Remove and return the tickets whose deadline has passed."""
        found = []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].waiting):
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.waiting:
                self.remove(ticket)
                found.append(ticket)
        return found

    def full(self, idle: int, coming: float = 0.0) -> bool:
        """Whether waiting could not make the next pack fuller; while images are coming, that of each idle engine.

        Args:
            idle, coming: See `take`.
        """
        packs = max(idle, 1) if coming else 1
        return self.tokens >= packs * self.budget or self.images >= packs * self.max_images

    def next_event(self, idle: int, coming: float = 0.0) -> float:
        """Time of the next event that needs no arrival: a pack becomes due for an idle engine, or a deadline passes.

        Args:
            idle, coming: See `take`.
        """
        deadline = self._deadlines[0][0] if self._deadlines else math.inf
        return min(deadline, self._due(coming)) if idle else deadline

    def take(
        self, now: float, idle: int, coming: float = 0.0, claim: Callable[[Ticket], bool] = lambda ticket: True
    ) -> list[Ticket]:
        """Remove and return the tickets of the next pack; none where no pack should be formed yet.

        Args:
            now: Current time on the scheduler's clock.
            idle: Number of engines that wait for a pack. They share evenly what waits, unless there are fewer images
                than engines. Where there is none, only full packs are formed, ahead of their run.
            coming: Seconds that an image waits for others, because more are being decoded; 0 where none are.
            claim: Called for each ticket; returns ``False`` where the ticket was just cancelled.
        """
        if not (self.full(idle, coming) or (idle and now >= self._due(coming))):
            return []
        share = min(self.budget, self.tokens / idle) if 0 < idle <= self.images else self.budget
        taken: list[Ticket] = []
        left: list[tuple[float, int, Ticket]] = []
        room = self.budget
        while self._line and len(taken) < self.max_images and len(left) <= self.policy.look_ahead:
            if self.budget - room >= share:
                break
            entry = heapq.heappop(self._line)
            ticket = entry[2]
            if not ticket.waiting:
                continue
            if ticket.tokens > room:
                left.append(entry)
                continue
            self.remove(ticket)
            if claim(ticket):
                taken.append(ticket)
                room -= ticket.tokens
        for entry in left:
            heapq.heappush(self._line, entry)
        return taken

    def _due(self, coming: float) -> float:
        """Time at which an idle engine should take a pack that is not full; infinite for an empty queue."""
        first = self._first()
        return math.inf if first is None else first.queued + max(self.policy.max_wait, coming)

    def _first(self) -> Ticket | None:
        while self._line and not self._line[0][2].waiting:
            heapq.heappop(self._line)
        return self._line[0][2] if self._line else None
