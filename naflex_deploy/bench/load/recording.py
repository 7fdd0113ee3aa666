"""A session that records every pack it runs, which shows what the engine really computed, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.wrapping import wrapped
from naflex_deploy.core.pack import Int32, Pack
from naflex_deploy.runtime.backends.session import Outputs, Session


@dataclass(frozen=True, eq=False)
class PackRun:
    """The run of one pack.

    Attributes:
        grid_hw, offsets, prefix, tokens: As in `Pack`; ``tokens`` includes the tail.
        start, end: Start and end of the run, in seconds of `time.perf_counter`.
    """

    grid_hw: Int32
    offsets: npt.NDArray[np.int64]
    prefix: int
    tokens: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each image, including prefix tokens, [M]."""
        return np.diff(self.offsets)

    @property
    def shape(self) -> Pack:
        """The pack without its pixels."""
        return Pack(np.empty((self.tokens, 0), np.uint8), self.grid_hw, self.offsets, self.prefix)


Note = Callable[[PackRun], None]


class RecordedSession:
    """Runs packs on a session and records each one, which takes about two microseconds per pack."""

    def __init__(self, session: Session, note: Note) -> None:
        self._session, self._note = session, note

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        start = time.perf_counter()
        found = self._session.run(pack, outputs)
        end = time.perf_counter()
        self._note(PackRun(pack.grid_hw, pack.offsets, pack.prefix, pack.tokens, start, end))
        return found


def recorded(session: Session, note: Note) -> Session:
    """A session that runs packs on ``session``, and calls ``note`` after each pack, from the thread that ran it."""
    return wrapped(session, lambda one: RecordedSession(one, note))
