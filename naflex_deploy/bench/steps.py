"""The steps of a benchmark, as a command shows them."""

from __future__ import annotations

from collections.abc import Callable

from naflex_deploy.core.progress import Counts

Show = Callable[[str, Counts], None]
"""Takes what is being done, and how many steps are done."""


class Steps:
    """Counts the steps of a benchmark.

    Args:
        show: Called at the start of each step, and of each part of one.
    """

    def __init__(self, show: Show) -> None:
        self._show = show
        self._begun = 0
        self._images = self._tokens = 0.0
        self.total: int | None = None

    def begin(self, what: str) -> None:
        """Begin the next step."""
        self._begun += 1
        self.part(what)

    def part(self, what: str) -> None:
        """Begin a part of the present step."""
        done = max(0, self._begun - 1)
        self._show(what, Counts(done, self.total, images=self._images, tokens=self._tokens, seconds=1.0))

    def measured(self, images: float, tokens: float) -> None:
        """Show these images/s and tokens/s from now on."""
        self._images, self._tokens = images, tokens
