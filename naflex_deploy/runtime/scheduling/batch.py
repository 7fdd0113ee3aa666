"""The images that share a pack, and what each of them gets from its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.packing.isolation import EngineError, Results
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome, PackReport
from naflex_deploy.runtime.scheduling.queue import Ticket


@dataclass(frozen=True, eq=False)
class Batch:
    """Tickets that share a pack.

    Attributes:
        number: Number of the pack, from 0.
        tickets: In the order in which their images lie in the pack.
        images: The images of the tickets.
        outputs: Names of all outputs that any ticket asked for.
    """

    number: int
    tickets: list[Ticket]
    images: list[Patches]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, number: int, tickets: list[Ticket]) -> Batch:
        """Gather tickets whose images are decoded."""
        images = [ticket.patches for ticket in tickets if ticket.patches]
        return cls(number, tickets, images, tuple(dict.fromkeys(name for t in tickets for name in t.outputs)))

    def failed(self, error: BaseException) -> list[EngineError]:
        """The results of a pack that did not run: the same error for every image."""
        if not isinstance(error, EngineError):
            error = EngineError(f"the engine's thread failed: {type(error).__name__}: {error}")
        return [error] * len(self.tickets)

    def answers(
        self, results: Sequence[Results | EngineError], started: float, finished: float
    ) -> list[tuple[Ticket, ImageOutcome | EngineError]]:
        """What each ticket gets.

        Args:
            results: One for each image, in order.
            started, finished: When the engine ran the pack, in seconds on the scheduler's clock.
        """
        found: list[tuple[Ticket, ImageOutcome | EngineError]] = []
        token = 0
        for ticket, image, result in zip(self.tickets, self.images, results, strict=True):
            if isinstance(result, EngineError):
                found.append((ticket, result))
            else:
                own = {name: result[name] for name in ticket.outputs}
                decoded, waited = ticket.queued - ticket.arrival, started - ticket.queued
                outcome = ImageOutcome(own, image.grid_hw, self.number, token, decoded, waited, finished - started)
                found.append((ticket, outcome))
            token += ticket.tokens
        return found

    def report(self, pack: Pack, budget: int, laid_out: float, started: float, finished: float) -> PackReport:
        """What metrics say of the run; see `PackReport`."""
        waits = tuple(started - ticket.queued for ticket in self.tickets)
        return PackReport(len(self.tickets), pack.tokens, budget, waits, laid_out, finished - started)
