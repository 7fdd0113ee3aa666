"""A short, seeded sample of ``python -m benchmarks.attack``: what must not happen, on any machine."""

from __future__ import annotations

import pytest

from benchmarks.attack.bundles import damage_manifests
from benchmarks.attack.server import attack


@pytest.mark.parametrize("name", ["shapes", "closing", "trailers"])
def test_a_server_that_is_attacked_answers_good_requests(name):
    found = attack(name, 1.0, seed=1)
    assert found.failures == []
    assert found.good


def test_damaged_manifests_are_errors_of_their_bundle():
    outcomes, failures = damage_manifests(150, first=0)
    assert failures == []
    assert sum(found["refused"] for found in outcomes.values()) > 0
    assert all(found["read"] for found in outcomes.values())
