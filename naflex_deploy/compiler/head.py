"""Describes a classifier for the manifest: its class names, how they are scored, and their thresholds."""

from __future__ import annotations

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.core.errors import UsageError, nearest
from naflex_deploy.core.manifest import Head
from naflex_deploy.core.profile import HeadSection


def make_head(section: HeadSection, checkpoint: Checkpoint) -> Head | None:
    """The head of a checkpoint under a profile; ``None`` if the checkpoint has no classifier.

    Raises:
        UsageError: The profile names a class that the model does not have, or a softmax of one output.
    """
    classes = checkpoint.architecture.classes
    if not classes:
        return None
    labels = list(checkpoint.labels) or [str(index) for index in range(classes)]
    for name in section.thresholds:
        if name not in labels:
            raise UsageError(f"head.thresholds: {checkpoint.source} has no class '{name}'", hint=nearest(name, labels))
    scores = checkpoint.scores if section.scores == "auto" else section.scores
    if scores == "softmax" and classes == 1:
        raise UsageError(
            f"head.scores = 'softmax': {checkpoint.source} has one output, whose softmax is 1 for every image",
            hint="'sigmoid' or 'raw'",
        )
    return Head(
        labels=labels,
        scores=scores,
        thresholds=[section.thresholds.get(name, section.threshold) for name in labels]
        if section.threshold or section.thresholds
        else [],
    )
