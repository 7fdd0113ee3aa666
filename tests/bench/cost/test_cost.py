from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.bench.cost.cost import CostModel, features, fit_cost, probe_packs, seconds_option, time_packs
from naflex_deploy.bench.load.subject import Subject
from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.engine import Engine
from tests.bench.support import Clock, CostedSession, variant
from tests.support.bundles import summing_manifest

TERMS = {"call": 0.003, "image": 0.0004, "token": 3e-5, "score": 2e-8}
BUDGETS = (64, 128, 256, 512, 1024)


def probes(budgets=BUDGETS, prefix=0):
    (patches, *_) = variant().inputs
    return [p for budget in budgets for p in probe_packs(budget, 256, 64, patches, prefix)]


def test_probes_tell_the_terms_apart():
    for prefix in (0, 5):
        packs = probes(prefix=prefix)
        assert all(p.tokens <= 1024 and p.images <= 64 and p.prefix == prefix for p in packs)
        scaled = features(packs, variant())
        assert np.linalg.cond(scaled / np.linalg.norm(scaled, axis=0)) < 100
        assert any(len(set(np.diff(p.offsets))) > 1 for p in packs)


@settings(max_examples=60, deadline=None)
@given(budget=st.integers(16, 4096), longest=st.integers(8, 1024), most=st.integers(1, 64), prefix=st.integers(0, 5))
def test_probes_fill_their_budget_with_as_many_images_as_a_pack_may_hold(budget, longest, most, prefix):
    (patches, *_) = variant().inputs
    for pack in probe_packs(budget, longest, most, patches, prefix):
        lengths = np.diff(pack.offsets)
        assert pack.images <= most
        assert pack.tokens <= budget
        assert lengths.max() <= max(longest, prefix + 1)
        assert pack.tokens >= min(0.5 * budget, 0.5 * longest * most) - prefix * pack.images


def test_the_terms_of_an_engine_are_found():
    clock = Clock()
    packs = probes()
    times = time_packs(CostedSession(clock, **TERMS), packs, ("pooled",), seconds=0.1, clock=clock)
    found = CostModel.fit(features(packs, variant()), times)
    for name, value in TERMS.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6)


def test_budgets_that_it_was_not_fitted_on_are_predicted_within_ten_percent():
    """An engine that the model does not describe: matrix products waste a part of their last tile of 48 rows, large
    packs leave the cache, and every timing has 3 % of noise."""
    random = np.random.default_rng(0)
    packs = probes()
    table = features(packs, variant())
    _, images, tokens, scores = table.T
    waste = np.ceil(tokens / 48) * 48
    true = 0.002 + 3e-4 * images + 3e-5 * waste * (1 + 0.05 * (tokens > 600)) + 2e-8 * scores
    noisy = true * np.exp(0.03 * random.standard_normal(len(true)))
    held = np.isin(np.arange(len(packs)) // 3, [1, 3])
    model = CostModel.fit(table[~held], noisy[~held])
    assert np.abs(model.seconds(table[held]) / true[held] - 1).max() <= 0.10


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.floats(0.01, 10)] * 4), min_size=4, max_size=12),
    seconds=st.lists(st.floats(0.1, 10), min_size=12, max_size=12),
)
def test_the_fit_is_the_best_without_negative_terms(rows, seconds):
    """By the conditions of Karush, Kuhn and Tucker for least squares of the relative error."""
    table = np.array(rows)
    wanted = np.array(seconds[: len(rows)])
    model = CostModel.fit(table, wanted)
    terms = np.array([model.call, model.image, model.token, model.score])
    relative = table / wanted[:, None]
    gradient = relative.T @ (relative @ terms - 1)
    scale = np.linalg.norm(relative, axis=0) * np.sqrt(len(rows))
    assert (terms >= 0).all()
    assert (gradient >= -1e-5 * scale).all()
    assert (np.abs(gradient[terms > 0]) <= 1e-5 * scale[terms > 0]).all()


def test_features_count_what_an_engine_of_fixed_shape_computes():
    fixed = variant(
        budgets=[1024], profiles=[{"tokens": 1024, "images": 64}], passes=[{"pass": "attention", "form": "segment"}]
    )
    table = features(probes(), fixed)
    assert set(table[:, 2]) == {1024}
    assert set(table[:, 3]) == {1024**2}


def timed(clock, factor, seconds, *, most=4096, longest=256, begun=None, report=lambda step: None):
    """Fit an engine that is so many times as slow as `TERMS`."""
    session = CostedSession(clock, **{name: factor * value for name, value in TERMS.items()})
    subject = Subject(Path(), Engine(session, summing_manifest(), variant()), session)
    return fit_cost(subject, most, longest, 64, seconds=seconds, begun=begun, clock=clock, report=report)


@pytest.mark.parametrize("factor", [0.01, 1, 3, 6])
def test_timing_packs_takes_the_time_that_it_is_given_on_any_machine(factor):
    clock, lines = Clock(), []
    found = timed(clock, factor, 8, report=lines.append)
    assert 4 < clock.now < 8 * 1.2
    assert found.model.token == pytest.approx(factor * TERMS["token"], rel=1e-3)
    assert found.error < 1e-3
    assert lines[0].startswith("timing packs: round 1, 0 of ")
    assert len(lines) >= 4


@pytest.mark.parametrize("loading", [0, 5])
def test_it_says_at_once_how_long_timing_would_take(loading):
    clock = Clock()
    clock.now = loading
    with pytest.raises(UsageError, match="timing packs takes about") as found:
        timed(clock, 30, 8, begun=0)
    assert clock.now - loading < 6
    (seconds,) = re.findall(r"--seconds (\d+)", found.value.hint)
    clock = Clock()
    clock.now = loading
    timed(clock, 30, 0.4 * int(seconds), begun=0)
    assert clock.now < 0.4 * int(seconds) * 1.2


@pytest.mark.parametrize(("needed", "built"), [(16, 12), (16, 100), (7.3, 0)])
def test_the_seconds_that_are_advised_leave_enough_beside_the_build(needed, built):
    seconds = seconds_option(needed, built)
    assert max(seconds - built, seconds / 2) >= needed
    assert max(seconds - 1 - built, (seconds - 1) / 2) < needed


def test_workers_run_packs_side_by_side():
    class Side:
        workers, worker_is_loaded = 3, True

        def __init__(self) -> None:
            self.ran = itertools.count()

        def worker(self):
            return self

        def run(self, pack, outputs):
            next(self.ran)
            return {}

    session = Side()
    assert (time_packs(session, probes((64,)), ("pooled",), seconds=0, least=2) > 0).all()
    assert next(session.ran) == 3 * 3 * 3
