"""Engines that fail: a fake one in a process of its own, whose results identify the images, and one of a bundle."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np

WIDTH = 64
POISON = 255


def formula(patches: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
    """Sums for each image, exact in float32, [M, WIDTH]; all NaN if the first pixel of any patch is `POISON`."""
    weights = np.arange(1, patches.shape[1] + 1, dtype=np.int64)
    sums = np.array([(patches[a:b].astype(np.int64) @ weights).sum() for a, b in itertools.pairwise(offsets)])
    found = ((sums[:, None] + 31 * np.arange(WIDTH) ** 3) % 9973).astype(np.float32)
    return np.full_like(found, np.nan) if (patches[:, 0] == POISON).any() else found


class ChildSession:
    """Runs packs in a child process, which is started again after it was killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.runs = 0

    def kill(self) -> bool:
        """Kill the process if it has run a pack."""
        process = self.process
        if process is None or not self.runs:
            return False
        process.kill()
        return True

    def run(self, pack: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        if self.process is None:
            self.runs = 0
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen([sys.executable, "-m", "benchmarks.serving.engine"], **pipes)
        try:
            pickle.dump((pack.patches, pack.offsets.tolist()), self.process.stdin)
            self.process.stdin.flush()
            found = pickle.load(self.process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            self.process.kill()
            self.process.wait()
            self.process = None
            raise
        self.runs += 1
        return {"pooled": found}


class FaultySession:
    """An engine of a bundle, with its workers and streams, that fails once whenever it is killed.

    Packs with a poisoned image give NaN.

    Args:
        session: The loaded engine.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._killed = Event()
        self.workers = getattr(session, "workers", 1)
        self.worker_is_loaded = False

    def kill(self) -> bool:
        """Make the next pack fail."""
        self._killed.set()
        return True

    def worker(self) -> FaultySession:
        found = FaultySession(self._session.worker())
        found._killed = self._killed
        return found

    def run(self, pack: Any, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        found = self._session.run(pack, outputs)
        if self._killed.is_set():
            self._killed.clear()
            raise OSError("the engine was killed")
        if (pack.patches[:, 0] == POISON).any():
            return {name: np.full_like(values, np.nan) for name, values in found.items()}
        return found  # type: ignore[no-any-return]


if __name__ == "__main__":
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        pickle.dump(formula(*request), sys.stdout.buffer)
        sys.stdout.buffer.flush()
