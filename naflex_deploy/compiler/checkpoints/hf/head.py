"""The classifier of a transformers checkpoint: names of its classes, and how its outputs become scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.manifest import Scores

PROBLEMS: dict[object, Scores] = {
    "regression": "raw",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
    None: "softmax",
}
"""What transformers' image classification pipeline does for each ``problem_type``, with several outputs."""


def read_head(config: Mapping[str, Any], outputs: int, source: str) -> tuple[tuple[str, ...], Scores]:
    """Names and scores of a classifier with so many outputs, as transformers' pipeline gives them.

    Raises:
        CheckpointError: ``id2label`` leaves a class out, or ``problem_type`` is unknown or does not fit.
    """
    problem = config.get("problem_type")
    if not isinstance(problem, str | None) or problem not in PROBLEMS:
        raise CheckpointError(
            f"{source}: config.json: problem_type = {problem!r} is not supported",
            hint=f"supported: {', '.join(str(known) for known in PROBLEMS if known)}",
        )
    scores = PROBLEMS[problem]
    if outputs == 1 and problem == "single_label_classification":
        raise CheckpointError(
            f"{source}: config.json: problem_type = '{problem}' with one output is not supported",
            hint="'regression' gives the value itself; without problem_type it is a sigmoid",
        )
    if outputs == 1 and scores == "softmax":
        scores = "sigmoid"  # the softmax of one value is 1, whatever the image
    return _labels(config.get("id2label"), outputs, source), scores


def _labels(names: Any, outputs: int, source: str) -> tuple[str, ...]:
    if not names:  # transformers leaves id2label out where it is the default of two labels
        return tuple(f"LABEL_{index}" for index in range(outputs))
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise CheckpointError(
            f"{source}: config.json: id2label: expected an object with a name for each class number, found {names!r}",
            hint="correct it in config.json",
        )
    numbered = {int(key): str(name) for key, name in names.items()}
    missing = sorted(set(range(len(numbered))) - numbered.keys())
    if missing:
        raise CheckpointError(
            f"{source}: config.json: id2label has {len(numbered)} names and none for class {missing[0]}",
            hint="number the classes from 0 without gaps",
        )
    return tuple(numbered[index] for index in range(len(numbered)))
