"""Makes a zero-shot classifier: each label's text vector becomes one of its rows, so it runs without the text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.text_checkpoint import Text
from naflex_deploy.core.errors import CheckpointError, UsageError
from naflex_deploy.core.files import read_text


@dataclass(frozen=True)
class Label:
    """A class: its name, and the texts that describe it."""

    name: str
    texts: tuple[str, ...]


def read_labels(path: Path) -> list[Label]:
    """Read one label per line: its text, or its name, a tab and its text. Empty lines are skipped.

    A name in several lines is a label with several texts.

    Raises:
        UsageError: The file cannot be read, holds no label, or holds a text of a label twice.
    """
    lines = read_text(path, hint="pass a text file of one label per line").splitlines()
    labels: dict[str, dict[str, int]] = {}
    for number, line in enumerate(lines, 1):
        name, _, text = (part.strip() for part in line.partition("\t"))
        if not name and not text:
            continue
        if not name:
            raise UsageError(f"{path}: line {number}: a text has no name", hint="write a line as NAME or NAME<TAB>TEXT")
        texts = labels.setdefault(name, {})
        if (text or name) in texts:
            raise UsageError(
                f"{path}: line {number}: '{name}' is already in line {texts[text or name]}, with the same text",
                hint="remove one of the two lines",
            )
        texts[text or name] = number
    if not labels:
        raise UsageError(
            f"{path}: expected one label per line, found none", hint="write a line as NAME or NAME<TAB>TEXT"
        )
    return [Label(name, tuple(texts)) for name, texts in labels.items()]


def cut_texts(text: Text, labels: Sequence[Label]) -> list[str]:
    """The texts of labels that are longer than the model reads."""
    every = [one for label in labels for one in label.texts]
    return [one for one, cut in zip(every, text.cut(every), strict=True) if cut]


@torch.no_grad()
def with_labels(checkpoint: Checkpoint, text: Text, labels: Sequence[Label]) -> Checkpoint:
    """A checkpoint with a classifier whose logit of each label is ``scale · cos(image, label) + bias``.

    The vector of a label is the mean of the normalised vectors of its texts, as in SigLIP's own evaluation.

    Raises:
        CheckpointError: The checkpoint already has a classifier, or its image vectors do not live in the text space.
    """
    a = checkpoint.architecture
    if a.classes or a.pooling != "map" or a.pooled_width != text.architecture.outputs:
        raise CheckpointError(
            f"{checkpoint.source}: labels need image vectors of {text.architecture.outputs} channels from an "
            f"attention head, found {a.pooled_width} from pooling '{a.pooling}' and {a.classes} classes",
            hint="pass the two-tower checkpoint that was not fine-tuned for classification",
        )
    every = F.normalize(text.vectors([one for label in labels for one in label.texts]), dim=-1)
    means = [vectors.mean(0) for vectors in torch.split(every, [len(label.texts) for label in labels])]
    classifier = {
        "classifier.weight": text.scale * F.normalize(torch.stack(means), dim=-1),
        "classifier.bias": torch.full((len(labels),), text.bias),
    }
    return replace(
        checkpoint,
        architecture=replace(a, classes=len(labels), cosine_classifier=True),
        weights=checkpoint.weights | classifier,
        labels=tuple(label.name for label in labels),
        scores="sigmoid",
        prompts=tuple(label.texts for label in labels),
    )
