"""A failure of one image, or of the engine at any moment, does not affect anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.packing.isolation import EngineError, run_isolated
from tests.support.sessions import POISON, FormulaSession, formula

OUTPUTS = ("pooled", "tokens")


def image(seed: int, poison: bool = False) -> Patches:
    h, w = 1 + seed % 3, 1 + seed % 2
    pixels = np.random.default_rng(seed).integers(0, POISON, (h * w, 12), dtype=np.uint8)
    pixels[0, 0] = POISON if poison else pixels[0, 0]
    return Patches(pixels, (h, w))


class Killed(FormulaSession):
    """A session whose worker dies in some of its runs, and is back in the next."""

    def __init__(self, dies_in: set[int]) -> None:
        super().__init__(poison=True)
        self.dies_in, self.runs = dies_in, 0

    def run(self, pack, outputs):
        self.runs += 1
        if self.runs - 1 in self.dies_in:
            raise BrokenPipeError("the worker was killed")
        return super().run(pack, outputs)


class Picky(FormulaSession):
    """A session that raises an error if a poisoned image is in the pack."""

    def run(self, pack, outputs):
        self.packs.append(pack.images)
        if (pack.patches[:, 0] == POISON).any():
            raise MemoryError
        return super().run(pack, outputs)


def run(session, images: list[Patches]):
    return run_isolated(session, Pack.of(images), images, OUTPUTS)


def assert_own(results, images: list[Patches]) -> None:
    for result, own in zip(results, images, strict=True):
        if own.pixels[0, 0] == POISON:
            assert isinstance(result, EngineError)
        else:
            np.testing.assert_array_equal(result["pooled"], formula(own))
            assert result["tokens"].shape == (*own.grid_hw, 4)


@given(
    poisoned=st.lists(st.booleans(), min_size=1, max_size=5),
    first=st.integers(0, 12),
    gaps=st.lists(st.integers(2, 6), max_size=3),
)
@settings(deadline=None)
def test_a_worker_that_dies_in_any_run_costs_no_image_its_result(poisoned, first, gaps):
    """Also in the second run of an image whose pack had been poisoned by another."""
    images = [image(seed, poison) for seed, poison in enumerate(poisoned)]
    assert_own(run(Killed({first, *(first + np.cumsum(gaps)).tolist()}), images), images)


@pytest.mark.parametrize("count", [1, 3])
def test_an_image_that_the_engine_cannot_run_fails_alone(count):
    images = [image(0, poison=True), image(1), image(2)][:count]
    results = run(Picky(), images)
    assert_own(results, images)
    assert "the engine failed: MemoryError" in str(results[0])


def test_an_engine_that_runs_nothing_is_to_blame_and_not_the_images():
    session = Killed(set(range(100)))
    with pytest.raises(EngineError, match="the worker was killed"):
        run(session, [image(seed) for seed in range(32)])
    assert session.runs == 4


def test_results_outlive_the_memory_of_the_session():
    class Reuses(FormulaSession):
        memory = np.zeros((2, 4), np.float32)

        def run(self, pack, outputs):
            rows = self.memory[: pack.images]
            rows[:] = super().run(pack, ["pooled"])["pooled"]
            return {"pooled": rows}

    session = Reuses()
    for images in ([image(0)], [image(1), image(2)]):
        results = run_isolated(session, Pack.of(images), images, ["pooled"])
        session.memory[:] = -1
        for result, own in zip(results, images, strict=True):
            np.testing.assert_array_equal(result["pooled"], formula(own))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({}, r"expected an output 'pooled', found \[\]"),
        ({"pooled": np.zeros((2, 4), np.float32)}, "expected 3 rows of 'pooled', found 2"),
        ({"pooled": np.zeros((3, 4), np.float32), "tokens": np.zeros((3, 4))}, "expected 7 rows of 'tokens', found 3"),
    ],
)
def test_a_session_that_returns_too_little_is_told_so(returned, message):
    class Wrong:
        def run(self, pack, outputs):
            return returned

    with pytest.raises(EngineError, match=message):
        run(Wrong(), [image(0), image(1), image(3)])
