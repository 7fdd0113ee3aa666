"""A classifier out of words: each label's text vector becomes a row of it, so that running it needs no text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.text_checkpoint import Text
from naflex_deploy.core.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class Label:
    """A class: what it is called, and the text that stands for it."""

    name: str
    text: str


def read_labels(path: Path) -> list[Label]:
    """Read a label a line: its text, or its name, a tab and its text. Empty lines are skipped.

    Raises:
        UsageError: The file cannot be read, holds no label, or one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="give a text file with a label a line") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8", hint="save it as UTF-8") from None
    labels: dict[str, tuple[int, Label]] = {}
    for number, line in enumerate(lines, 1):
        name, _, text = (part.strip() for part in line.partition("\t"))
        if not name and not text:
            continue
        if not name:
            raise UsageError(f"{path}: line {number}: a text without a name", hint="a line is NAME or NAME<TAB>TEXT")
        if name in labels:
            raise UsageError(f"{path}: line {number}: '{name}' stands in line {labels[name][0]} already")
        labels[name] = number, Label(name, text or name)
    if not labels:
        raise UsageError(f"{path}: expected a label a line, found none")
    return [label for _, label in labels.values()]


@torch.no_grad()
def with_labels(checkpoint: Checkpoint, text: Text, labels: Sequence[Label]) -> Checkpoint:
    """A checkpoint that classifies: its logits are ``scale · cos(image, text) + bias`` of each label.

    Raises:
        CheckpointError: It has a classifier already, or its image vectors are not those that texts were trained with.
    """
    a = checkpoint.architecture
    if a.classes or a.pooling != "map" or a.pooled_width != text.architecture.outputs:
        raise CheckpointError(
            f"{checkpoint.source}: labels need image vectors of {text.architecture.outputs} channels from an "
            f"attention head, found {a.pooled_width} from pooling '{a.pooling}' and {a.classes} classes",
            hint="give the two-tower checkpoint that was not fine-tuned for classification",
        )
    vectors = F.normalize(text.model()(text.tokenize([label.text for label in labels])), dim=-1)
    classifier = {
        "classifier.weight": text.scale * vectors,
        "classifier.bias": torch.full((len(labels),), text.bias),
    }
    return replace(
        checkpoint,
        architecture=replace(a, classes=len(labels), cosine_classifier=True),
        weights=checkpoint.weights | classifier,
        labels=tuple(label.name for label in labels),
        scores="sigmoid",
    )
