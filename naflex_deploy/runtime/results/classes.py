"""Turn logits into names of classes and scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.manifest import Head

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """A class and its score, in the way that the head of the bundle scores classes."""

    name: str
    score: float


def score(logits: Float, head: Head) -> Float:
    """Scores from [classes] logits: one distribution by softmax, each class on its own by sigmoid, or as they are."""
    if head.scores == "raw":
        return logits
    if head.scores == "sigmoid":
        # e^-|x| does not overflow, and σ(x) = 1 - σ(-x).
        small = np.exp(-np.abs(logits))
        scores: Float = np.where(logits >= 0, 1, small) / (1 + small)
    else:
        shifted = np.exp(logits - logits.max())
        scores = shifted / shifted.sum()
    return scores


def rank(logits: Float, head: Head, top: int) -> list[Prediction]:
    """The best classes for [classes] logits, best first: at most ``top``, and none below its threshold."""
    scores = score(logits, head)
    order = np.argsort(-scores, kind="stable")
    if head.thresholds:
        order = order[scores[order] >= np.array(head.thresholds, np.float32)[order]]
    return [Prediction(head.labels[index], float(scores[index])) for index in order[:top]]


def best_class(logits: Float | None, head: Head | None) -> Prediction | None:
    """The best class for [classes] logits, where there are logits, classes, and one above its threshold."""
    return next(iter(rank(logits, head, 1)), None) if logits is not None and head is not None else None
