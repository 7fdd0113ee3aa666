"""Fake engines and machines for tests: packs cost what a formula says, on a clock that the test advances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.session import Outputs
from tests.support.bundles import WIDTH, summing_manifest


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


class CostedSession:
    """Takes ``call + image·M + token·T + score·ΣL²`` seconds a pack on a clock; results are zeros."""

    def __init__(self, clock: Clock, call=0.001, image=0.0005, token=2e-5, score=1e-8) -> None:
        self.clock, self.terms = clock, (call, image, token, score)

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        lengths = np.diff(pack.offsets)
        self.clock.now += float(np.dot(self.terms, (1, pack.images, pack.tokens, (lengths**2).sum())))
        return {name: np.zeros((pack.images, WIDTH), np.float32) for name in outputs}


def variant(**changes):
    """That of a summing bundle, changed."""
    return summing_manifest().variants[0].model_copy(update=changes)
