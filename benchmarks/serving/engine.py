"""A fake engine in a process of its own, which can be killed; its results identify the images."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from collections.abc import Sequence
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


if __name__ == "__main__":
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        pickle.dump(formula(*request), sys.stdout.buffer)
        sys.stdout.buffer.flush()
