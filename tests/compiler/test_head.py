"""The class names in a bundle come from the checkpoint, unless the profile overrides them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from naflex_deploy.compiler.head import make_head
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import Head
from naflex_deploy.core.profile import HeadSection
from tests.support.tiny import CLASSES, tiny_checkpoint

NAMES = ("fracture", "nodule", "effusion", "tube", "nothing")
CHECKPOINT = replace(tiny_checkpoint(), labels=NAMES)


def test_names_are_those_of_the_checkpoint_or_numbers() -> None:
    assert make_head(HeadSection(), CHECKPOINT) == Head(labels=list(NAMES))
    assert make_head(HeadSection(), tiny_checkpoint()) == Head(labels=["0", "1", "2", "3", "4"])
    bare = replace(CHECKPOINT, architecture=replace(CHECKPOINT.architecture, classes=0), labels=())
    assert make_head(HeadSection(thresholds={"fracture": 0.5}), bare) is None


def test_the_profile_may_score_otherwise() -> None:
    multi_label = replace(CHECKPOINT, scores="sigmoid")
    found = [
        make_head(HeadSection(scores=scores), checkpoint)
        for checkpoint in (CHECKPOINT, multi_label)
        for scores in ("auto", "softmax", "sigmoid")
    ]
    expected = ["softmax", "softmax", "sigmoid", "sigmoid", "softmax", "sigmoid"]
    assert [head.scores for head in found if head] == expected


def test_thresholds_are_of_all_classes_or_of_some() -> None:
    def thresholds(**values: object) -> list[float]:
        head = make_head(HeadSection.model_validate(values), CHECKPOINT)
        assert head is not None
        return head.thresholds

    assert thresholds() == []
    assert thresholds(threshold=0.3) == [0.3] * CLASSES
    assert thresholds(thresholds={"tube": 0.1}) == [0, 0, 0, 0.1, 0]
    assert thresholds(threshold=0.3, thresholds={"nodule": 0.0}) == [0.3, 0, 0.3, 0.3, 0.3]


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"head\.thresholds: tiny has no class 'fractur'") as caught:
        make_head(HeadSection(thresholds={"fractur": 0.5}), CHECKPOINT)
    assert caught.value.hint == "did you mean 'fracture'?"
