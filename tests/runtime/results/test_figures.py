"""Figures, against their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.runtime.results.figures import UNKNOWN, Figures, cosine


def test_decisions() -> None:
    wanted = np.array([[5.0, 1, 0], [0, 2, 1], [3, 0, 2.5], [0, 0, 4]], np.float32)
    found = np.array([[4.0, 1, 0], [0, 2, 1], [2, 0, 2.5], [0, 0, 5], [9, 9, 9]], np.float32)  # a row of the tail
    figures = Figures()
    figures.add({"logits": found}, {"logits": wanted}, np.array([0, 1, 2, UNKNOWN]))
    summary = figures.summary()
    # Margins are 4, 1, 0.5, 4; they become 3, 1, -0.5, 5.
    assert summary["margin_error"] == pytest.approx((1 + 0 + 1 + 1) / (4 + 1 + 0.5 + 4))
    assert summary["top1_agreement"] == 0.75
    assert (summary["accuracy"], summary["reference_accuracy"]) == (1.0, pytest.approx(2 / 3))
    assert (summary["images"], summary["labelled"]) == (4, 3)


def test_cosines_of_each_kind_are_the_least_and_the_mean_of_all_packs() -> None:
    rng = np.random.default_rng(0)
    figures, values = Figures(), {"pooled": [], "token": []}
    for rows in (3, 5):
        wanted = {name: rng.standard_normal((rows, 8), np.float32) for name in ("pooled", "tokens", "tokens:-2")}
        found = {name: array + 0.1 * rng.standard_normal(array.shape, np.float32) for name, array in wanted.items()}
        figures.add(found, wanted)
        for name in wanted:
            values["token" if name.startswith("tokens") else name].append(cosine(found[name], wanted[name]))
    summary = figures.summary()
    for kind, parts in values.items():
        assert summary[f"{kind}_cosine"] == pytest.approx(min(map(np.min, parts)))
        assert summary[f"{kind}_cosine_mean"] == pytest.approx(np.concatenate(parts).mean())
    assert set(summary) == {f"{kind}_cosine{end}" for kind in values for end in ("", "_mean")}


@given(st.integers(0, 99))
def test_the_reference_agrees_with_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((6, 4), np.float32)
    figures = Figures()
    figures.add({"logits": logits}, {"logits": logits}, rng.integers(0, 4, 6))
    summary = figures.summary()
    assert (summary["top1_agreement"], summary["margin_error"]) == (1, 0)
    assert summary["accuracy"] == summary["reference_accuracy"]


def test_cosine_of_zero_rows() -> None:
    zero, one = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert (cosine(zero, zero)[0], cosine(zero, one)[0], cosine(one, 3 * one)[0]) == (1, 0, pytest.approx(1))
