"""Images that wait for an engine, and which of them make the next pack. No threads, no clock: simulated as it runs.

Packs form continuously. The first in line is always taken, then those behind it that still fit, looking at a
bounded number of images, so that an image is overtaken only while a pack that it does not fit into fills up. Each
pack takes the first in line, so an image with n others before it is in one of the next n + 1 packs. Priority is a
head start in seconds: it moves an image ahead of those that arrived up to that long before, and of no others, so
low priority waits longer but never for ever.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.pack import Patches


class DeadlineError(NaflexError):
    """The time that a request allowed has passed."""

    @classmethod
    def of(cls, ticket: Ticket, now: float) -> DeadlineError:
        return cls(f"not run within its deadline, after {now - ticket.arrival:.2f} s")


@dataclass(frozen=True)
class Policy:
    """When packs go, and how much may wait.

    Attributes:
        queue_tokens: Tokens that may be waiting, decoding or running; 0 for 32 times the largest budget.
        max_wait: Seconds that an idle engine waits for a pack to fill up.
        look_ahead: Images passed over while one that fits into the pack is looked for; 0 is first in, first out.
        head_start: Seconds that one step of priority is worth.
    """

    queue_tokens: int = 0
    max_wait: float = 0.002
    look_ahead: int = 128
    head_start: float = 1.0


@dataclass(eq=False)
class Ticket:
    """One image on its way through the queue.

    Attributes:
        tokens: That it takes up, prefix tokens included; an upper bound until it is decoded.
        outputs: Names of those wanted.
        arrival, deadline: On the scheduler's clock, in seconds.
        order: Arrival less head start.
        future: Gets its result.
        patches: Once it is decoded.
        queued: When it was decoded and could be packed.
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


class PackQueue:
    """Tickets in order, for packs of at most ``budget`` tokens and ``max_images`` images."""

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
        """Line up a ticket of at most ``budget`` tokens."""
        number = next(self._number)
        ticket.waiting, ticket.queued = True, now
        self.tokens += ticket.tokens
        self.images += 1
        heapq.heappush(self._line, (ticket.order, number, ticket))
        if ticket.deadline < math.inf:
            heapq.heappush(self._deadlines, (ticket.deadline, number, ticket))

    def remove(self, ticket: Ticket) -> None:
        """Forget a ticket, which may have left already."""
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
        """Remove the tickets whose deadline has come."""
        found = []
        while self._deadlines and (self._deadlines[0][0] <= now or not self._deadlines[0][2].waiting):
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.waiting:
                self.remove(ticket)
                found.append(ticket)
        return found

    @property
    def full(self) -> bool:
        """Whether waiting longer could not make the next pack fuller."""
        return self.tokens >= self.budget or self.images >= self.max_images

    def due(self) -> float:
        """When an idle engine should take what is there."""
        first = self._first()
        return math.inf if first is None else first.queued + self.policy.max_wait

    def next_event(self, idle: bool) -> float:
        """When something is to be done although nothing arrives: a pack is due or a deadline comes."""
        deadline = self._deadlines[0][0] if self._deadlines else math.inf
        return min(deadline, self.due()) if idle else deadline

    def take(self, now: float, *, idle: bool, claim: Callable[[Ticket], bool] = lambda ticket: True) -> list[Ticket]:
        """The next pack, empty where none should be made yet.

        Args:
            now: The time.
            idle: An engine waits for it. Otherwise only full packs are made, ahead of their run.
            claim: Called for each ticket; ``False`` where it was cancelled in this moment.
        """
        if not (self.full or (idle and now >= self.due())):
            return []
        taken: list[Ticket] = []
        left: list[tuple[float, int, Ticket]] = []
        room = self.budget
        while self._line and room and len(taken) < self.max_images and len(left) <= self.policy.look_ahead:
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

    def _first(self) -> Ticket | None:
        while self._line and not self._line[0][2].waiting:
            heapq.heappop(self._line)
        return self._line[0][2] if self._line else None
