"""Progress of long commands on stderr: a bar in a terminal, now and then a line in a log, nothing with ``--quiet``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from naflex_deploy.cli.terminal import err
from naflex_deploy.core.progress import Counts

EVERY = 10.0
"""Seconds between two lines of a log about the same work."""


class Progress:
    """Shows how far one piece of work has come, from `__enter__` to `__exit__`.

    Args:
        unit: What is counted, in the plural.
        console: Where it is shown.
        clock: Gives seconds.
    """

    def __init__(self, unit: str, *, console: Console = err, clock: Callable[[], float] = time.monotonic) -> None:
        self._unit, self._console, self._clock = unit, console, clock
        self._quiet = console.quiet
        columns = (TextColumn("{task.description}"), BarColumn(20))
        self._bars = Bars(*columns, console=console, disable=not console.is_terminal or self._quiet, transient=True)
        self._task = self._bars.add_task("", total=None, visible=False)
        self._begun: float | None = None
        self._said: tuple[str, float] | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, what: str, counts: Counts) -> None:
        """Show the counts of what is being done now. Time runs from the first call on."""
        now = self._clock()
        if self._begun is None:
            self._begun = now
        known = counts.done or counts.total is not None
        line = f"{what}: {describe(counts, self._unit, now - self._begun)}" if known else what
        if not self._bars.disable:
            self._bars.update(
                self._task, description=escape(line), completed=counts.done, total=counts.total, visible=True
            )
        elif not self._quiet and (self._said is None or self._said[0] != what or now - self._said[1] >= EVERY):
            self._said = what, now
            self._console.print(line, markup=False)


def describe(counts: Counts, unit: str, seconds: float) -> str:
    """The counts, rates and the time left, as far as they are known after a number of seconds."""
    known = "" if counts.total is None else f" of {counts.total:,}"
    parts = [f"{counts.done:,}{known} {unit}"]
    took = seconds if counts.seconds is None else counts.seconds
    if took > 0:
        rates = (("images", counts.images), ("tokens", counts.tokens))
        parts += [f"{_number(amount / took)} {name}/s" for name, amount in rates if amount]
    now = counts.done - counts.before
    if counts.total is not None and seconds > 0 and now > 0 and counts.done < counts.total:
        parts.append(f"{_duration((counts.total - counts.done) * seconds / now)} left")
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
