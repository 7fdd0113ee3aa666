"""The interface of a loaded engine, whatever library runs it."""

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
            pack: A pack within the largest budget.
            outputs: Names of the outputs to return.

        Returns:
            Per-image outputs [M, …] and per-token outputs [T, …] by name.
        """
        ...


@runtime_checkable
class SideBySide(Session, Protocol):
    """A session that is fastest with several packs at once, each on its own core, when there are enough packs.

    Attributes:
        workers: Number of packs to run at once.
        worker_is_loaded: Whether the session that `worker` returns is loaded already.
    """

    workers: int
    worker_is_loaded: bool

    def worker(self) -> Session:
        """The session that runs packs side by side, from ``workers`` threads. The first call loads it."""
        ...


@runtime_checkable
class OnDevice(Session, Protocol):
    """A session that can leave outputs in GPU memory."""

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """Run one pack; each output is an object that supports DLPack and owns its memory."""
        ...
