"""Images with known results, a session that waits and decoders that do, for tests of the scheduler."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future

import numpy as np

from naflex_deploy.core.pack import Patches
from tests.support.sessions import POISON, FormulaSession, formula

BUDGET = 48
OUTPUTS = ("pooled", "tokens")


def image(seed: int, h: int, w: int, poison: bool = False) -> Patches:
    pixels = np.random.default_rng(seed).integers(0, POISON, (h * w, 12), dtype=np.uint8)
    if poison:
        pixels[0, 0] = POISON
    return Patches(pixels, (h, w))


def assert_own(served, patches: Patches) -> None:
    np.testing.assert_array_equal(served.outputs["pooled"], formula(patches))
    expected = np.repeat(patches.pixels[:, :1].astype(np.float32), 4, axis=1).reshape(*patches.grid_hw, 4)
    np.testing.assert_array_equal(served.outputs["tokens"], expected)
    assert served.grid_hw == patches.grid_hw


class Gate(FormulaSession):
    """A session that runs a pack when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def run(self, pack, outputs):
        self.entered.release()
        assert self.go.acquire(timeout=10)
        return super().run(pack, outputs)


class Later(Executor):
    """An executor whose work is done when the test says."""

    def __init__(self) -> None:
        self.works: list = []

    def submit(self, function, /, *args, **kwargs):
        self.works.append(lambda: function(*args, **kwargs))
        return Future()
