"""Identifies the model and preprocessing that a calibration applies to; with any other, it is worthless."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from naflex_deploy.core.manifest import Manifest
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile

if TYPE_CHECKING:
    from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint

Values = Mapping[str, Any]

BACKEND = "onnxruntime"
"""The backend whose token limit bounds the images that are observed."""


def subject_of(checkpoint: Checkpoint, profile: Profile) -> Values:
    """The subject of a calibration of a checkpoint under a profile."""
    architecture = dataclasses.asdict(checkpoint.architecture)
    return _subject(checkpoint.digest(), architecture, checkpoint.preprocessing, profile)


def subject_of_bundle(manifest: Manifest) -> Values:
    """The subject of a calibration of a bundle's model."""
    return _subject(manifest.model.digest, manifest.model.architecture, manifest.preprocessing, manifest.config)


def _subject(weights: str, architecture: Mapping[str, Any], preprocessing: Preprocessing, profile: Profile) -> Values:
    """The subject as JSON values, so that it compares equal to one read from a file.

    Budgets are left out, because an image's activations do not depend on the images that share its pack.
    """
    prefix = int(architecture["class_token"]) + int(architecture["registers"])
    values: Values = _plain(
        {
            "weights": weights,
            "architecture": architecture,
            "preprocessing": _without_later_defaults(preprocessing),
            "image": {
                **profile.image.model_dump(mode="json", exclude={"max_pixels"}),
                "tokens": profile.image_tokens(BACKEND, prefix),
            },
        }
    )
    return values


def _without_later_defaults(preprocessing: Preprocessing) -> Values:
    """Calibrations that are older than an option do not state it, so it is stated only where it is not the default."""
    older = {"patch_size", "mean", "std", "resample", "search"}
    values = preprocessing.model_dump(mode="json")
    default = Preprocessing(patch_size=preprocessing.patch_size).model_dump(mode="json")
    return {name: value for name, value in values.items() if name in older or value != default[name]}


def differences(expected: Values, found: Values) -> list[str]:
    """The differences between two subjects, such as ``image.tokens: expected 256, found 1024``."""
    wanted, had = dict(_flat(expected)), dict(_flat(found))
    names = [*wanted, *(name for name in had if name not in wanted)]
    return [
        f"{name}: expected {_short(wanted.get(name))}, found {_short(had.get(name))}"
        for name in names
        if wanted.get(name) != had.get(name)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(values: Values, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
