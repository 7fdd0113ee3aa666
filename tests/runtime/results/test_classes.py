"""Logits become the same scores as in torch, in order, and classes are named from their threshold on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.core.manifest import Head
from naflex_deploy.runtime.results.classes import Prediction, rank, score

LABELS = ["a", "b", "c", "d"]
LOGITS = st.lists(st.floats(-300, 300, width=32), min_size=4, max_size=4)


@pytest.mark.filterwarnings("error")
@given(LOGITS)
def test_scores_are_those_of_torch(values: list[float]) -> None:
    logits = np.array(values, np.float32)
    tensor = torch.from_numpy(logits).double()
    for kind, expected in (("softmax", tensor.softmax(0)), ("sigmoid", tensor.sigmoid())):
        found = score(logits, Head(labels=LABELS, scores=kind))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-7)


def names(predictions: list[Prediction]) -> list[str]:
    return [prediction.name for prediction in predictions]


@pytest.mark.parametrize("top", [1, 3, 9])
def test_the_best_come_first_and_equal_ones_keep_their_order(top: int) -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0], np.float32)
    found = rank(logits, Head(labels=LABELS), top)
    scores = np.exp(logits) / np.exp(logits).sum()
    assert names(found) == ["b", "d", "c", "a"][:top]
    assert [prediction.score for prediction in found] == pytest.approx(np.sort(scores)[::-1][:top], rel=1e-6)


def test_each_class_has_a_threshold_of_its_own() -> None:
    logits = np.log(np.array([0.9, 0.6, 0.5, 0.2], np.float32) / (1 - np.array([0.9, 0.6, 0.5, 0.2], np.float32)))
    head = Head(labels=LABELS, scores="sigmoid", thresholds=[0.95, 0.5, 0.5, 0.1])
    found = rank(logits.astype(np.float32), head, 9)
    assert names(found) == ["b", "c", "d"]
    np.testing.assert_allclose([prediction.score for prediction in found], [0.6, 0.5, 0.2], rtol=1e-5)
    assert names(rank(logits.astype(np.float32), head, 1)) == ["b"]
    assert rank(logits.astype(np.float32), head.model_copy(update={"thresholds": [1.0] * 4}), 9) == []
