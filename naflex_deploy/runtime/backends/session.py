"""What every loaded engine can do, whatever library runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.pack import Pack

Outputs = dict[str, npt.NDArray[np.generic]]


class Session(Protocol):
    """A loaded engine."""

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        """Run one pack.

        Args:
            pack: Within the largest budget.
            outputs: Names to return.

        Returns:
            Per-image outputs [M, …] and per-token outputs [T, …] by name.
        """
        ...


@runtime_checkable
class SideBySide(Session, Protocol):
    """A session whose packs are best run several at once, each on a core of its own, when there are enough.

    Attributes:
        workers: How many at once.
        worker_is_loaded: Whether `worker` was called.
    """

    workers: int
    worker_is_loaded: bool

    def worker(self) -> Session:
        """What runs them, called from as many threads; loaded by the first call."""
        ...


@runtime_checkable
class OnDevice(Session, Protocol):
    """A session that can leave outputs in GPU memory."""

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """As `run`, but each output is an object that speaks DLPack, in memory of its own."""
        ...
