from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naflex_deploy.bench.load.latency import latency_of
from naflex_deploy.bench.load.mixes import DISTRIBUTIONS, PROFILES, mix_for
from naflex_deploy.bench.report.report import histogram_json, latency_json
from naflex_deploy.bench.report.summary import goal_text, summary_json
from naflex_deploy.core.config import builtin_profiles


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tokens=st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_bins_hold_what_they_say(tokens):
    found = histogram_json(tokens)
    assert (found["images"], found["tokens"]) == (len(tokens), sum(tokens))
    bins = found["bins"]
    assert (bins[0]["from"], bins[-1]["to"]) == (min(tokens), max(tokens))
    for entry in bins:
        assert entry["images"] == sum(entry["from"] <= count <= entry["to"] for count in tokens)
    assert sum(entry["images"] for entry in bins) == len(tokens)


@pytest.mark.parametrize(
    ("within", "met_up_to", "text"),
    [
        ((1.0, 0.99, 0.98), 20, "99% within 250 ms: met up to 20 images/s"),
        ((1.0, 0.5, 1.0), 10, "99% within 250 ms: met up to 10 images/s"),
        ((0.9, 1.0, 1.0), None, "99% within 250 ms: not met at any rate"),
        ((), None, "not measured"),
    ],
)
def test_the_goal_is_met_up_to_the_rate_before_the_first_miss(
    within: tuple[float, ...], met_up_to: int | None, text: str
) -> None:
    steps = [{"rate": 10 * (n + 1), "within_goal": share, "goal_known": True} for n, share in enumerate(within)]
    unaware = [{**step, "within_goal": 0.0, "goal_known": False} for step in steps]
    document = {"single": None, "offline": None, "open_loop": [*unaware, *reversed(steps)], "slo_ms": 250.0}
    found = summary_json(document)
    assert (found["goal"]["met_up_to"], goal_text(found["goal"])) == (met_up_to, text)
    assert found["p50_ms"] is found["images_per_second"] is None


@pytest.mark.parametrize("count", [0, 1, 7, 100, 1000])
def test_a_distribution_holds_every_latency_or_each_hundredth(count: int) -> None:
    seconds = np.random.default_rng(0).permutation(np.arange(1, count + 1)).astype(float)
    expected = list(range(1, count + 1)) if count <= 100 else list(range(10, count + 1, 10))
    assert latency_json(latency_of(seconds))["distribution_ms"] == [1000.0 * value for value in expected]


def test_the_mix_suits_the_profile() -> None:
    assert [mix_for(name) for name in ("doc-ocr", "doc-ocr-tuned", "doc-ocrs", "photo")] == [
        "documents",
        "documents",
        "photos",
        "photos",
    ]
    assert set(PROFILES) <= set(builtin_profiles())
    assert set(PROFILES.values()) <= set(DISTRIBUTIONS)
