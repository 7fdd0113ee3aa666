"""Names and scores as transformers' image classification pipeline gives them for the same outputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Siglip2ForImageClassification
from transformers.pipelines.image_classification import ImageClassificationPipeline

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.head import make_head
from naflex_deploy.core.errors import CheckpointError, UsageError
from naflex_deploy.core.profile import HeadSection
from naflex_deploy.runtime.results.classes import rank
from tests.support.siglip2 import small


def saved(directory: Path, outputs: int, **changes: Any) -> Path:
    """A classifier with so many outputs, as ``save_pretrained`` writes it, its config changed."""
    model = small(Siglip2ForImageClassification, num_hidden_layers=1)
    model.classifier = torch.nn.Linear(96, outputs)
    model.config.id2label = {index: f"name {index}" for index in range(outputs)}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    model.save_pretrained(directory)
    path = directory / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return directory


@pytest.mark.parametrize(
    "problem", [None, "regression", "single_label_classification", "multi_label_classification"], ids=str
)
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_scores_are_those_of_the_pipeline(outputs: int, problem: str | None, tmp_path: Path) -> None:
    directory = saved(tmp_path, outputs, problem_type=problem)
    if (outputs, problem) == (1, "single_label_classification"):  # transformers refuses it, too
        with pytest.raises(CheckpointError, match="problem_type = 'single_label_classification' with one output"):
            read(directory)
        return
    model = Siglip2ForImageClassification.from_pretrained(directory)
    logits = np.random.default_rng(outputs).normal(0, 3, outputs).astype(np.float32)
    pipeline = SimpleNamespace(model=model, framework="pt")
    expected = ImageClassificationPipeline.postprocess(pipeline, {"logits": torch.from_numpy(logits)[None]})
    head = make_head(HeadSection(), read(directory))
    assert head is not None
    found = rank(logits, head, 5)
    assert [item.name for item in found] == [item["label"] for item in expected]
    np.testing.assert_allclose([item.score for item in found], [item["score"] for item in expected], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"id2label": {"0": "a", "2": "c"}}, "id2label has 2 names and none for class 1"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "id2label has 3 names and none for class 0"),
        ({"id2label": {"cat": 0}}, "id2label: expected an object with a name for each class number"),
        ({"id2label": ["a", "b", "c"]}, "id2label: expected an object"),
        ({"id2label": {"0": "a", "1": "b"}}, r"'classifier\.weight': expected shape \[2, 96\], found \[3, 96\]"),
        ({"problem_type": "ranking"}, "problem_type = 'ranking' is not supported"),
        ({"problem_type": ["regression"]}, r"problem_type = \['regression'\] is not supported"),
    ],
)
def test_heads_that_cannot_be_named(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read(saved(tmp_path, 3, **changes))
    assert caught.value.code == 2
    assert caught.value.hint


def test_one_output_has_no_softmax(tmp_path: Path) -> None:
    checkpoint = read(saved(tmp_path, 1))
    with pytest.raises(UsageError, match="has one output, whose softmax is 1"):
        make_head(HeadSection(scores="softmax"), checkpoint)
    head = make_head(HeadSection(scores="raw"), checkpoint)
    assert head is not None
    assert rank(np.array([-7.5], np.float32), head, 1)[0].score == -7.5
