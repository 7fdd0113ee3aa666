from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naflex_deploy.bench.report.report import histogram_json


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
