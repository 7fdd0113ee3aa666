"""The outputs of the Open Inference Protocol: which there are, their types, and their values.

A bundle's outputs have one row per image, or, on the grid, the rows of all images one after another. Beside them there
is ``grid_hw`` [N, 2] INT32, the rows and columns of each image's patches. A bundle of a vision-language model also has
``image_embeds`` [Σ g, width · (1 + taps)], what a server of language models takes as the tokens of all images, and
``image_grid_thw`` [parts, 3] INT64: 1, rows and columns of each part, which is an image, or its tiles and then the
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.pack import in_blocks, on_grid
from naflex_deploy.runtime.results.handover import DEEPSTACK, VLM
from naflex_deploy.runtime.results.tokens import narrowed
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem

GRID = "grid_hw"
EMBEDS = "image_embeds"
GRIDS_THW = "image_grid_thw"

Datatype = Literal["FP16", "FP32", "INT32", "INT64"]
_DTYPES: dict[Datatype, Any] = {"FP16": np.float16, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64}


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request asks for.

    Attributes:
        name: Of an output of `known`.
        binary: Whether it is sent as bytes after the JSON.
        datatype: Type of its values.
    """

    name: str
    binary: bool
    datatype: Datatype


def known(model: Model) -> dict[str, tuple[Datatype, list[int]]]:
    """Type and shape of every output. Tokens for language models are FP16 unless a request asks for FP32."""
    found: dict[str, tuple[Datatype, list[int]]] = {
        name: ("FP16" if in_blocks(name) else "FP32", [-1, int(spec.shape[-1])]) for name, spec in model.outputs.items()
    }
    found[GRID] = ("INT32", [-1, 2])
    if VLM in model.outputs:
        width = sum(shape[-1] for name, (_, shape) in found.items() if in_blocks(name))
        found |= {EMBEDS: ("FP16", [-1, width]), GRIDS_THW: ("INT64", [-1, 3])}
    return found


def default(model: Model) -> list[str]:
    """The outputs of an answer to a request that names none: each once, and none that others make up."""
    return [name for name in known(model) if name not in (EMBEDS, GRIDS_THW)]


def computed(names: Sequence[str], model: Model) -> list[str]:
    """The engine's outputs that others are made of. The grid is part of every result."""
    found = [name for name in names if name not in (GRID, EMBEDS, GRIDS_THW)]
    if EMBEDS in names:
        found += [name for name in _embedded(list(model.outputs)) if name not in found]
    return found or [next(iter(model.outputs))]


def values(output: WantedOutput, served: Sequence[ImageOutcome]) -> npt.NDArray[Any]:
    """The values of an output for all images of a request.

    Raises:
        Problem: A value is beyond FP16.
    """
    dtype = np.dtype(_DTYPES[output.datatype])
    if output.name == GRID:
        return np.array([item.grid_hw for item in served], dtype)
    if output.name == GRIDS_THW:
        return np.array([(1, *grid) for item in served for grid in item.parts or (item.grid_hw,)], dtype)
    if output.name == EMBEDS:
        found = np.concatenate([_rows(name, served) for name in _embedded(list(served[0].outputs))], axis=1)
    elif on_grid(output.name):
        found = _rows(output.name, served)
    else:
        found = np.stack([item.outputs[output.name] for item in served])
    if found.dtype == dtype:
        return found  # as the engine gave it, and finite
    try:
        values: npt.NDArray[Any] = narrowed(found, dtype)
        return values
    except UsageError as error:
        raise Problem(
            422,
            "bad_request",
            f"{output.name}: {error.message}",
            hint='ask for it in {"parameters": {"datatype": "FP32"}}',
            param="outputs",
        ) from None


def _embedded(names: Sequence[str]) -> list[str]:
    taps = [name for name in names if name.startswith(DEEPSTACK)]
    return [VLM, *sorted(taps, key=lambda name: int(name.removeprefix(DEEPSTACK)))]


def _rows(name: str, served: Sequence[ImageOutcome]) -> npt.NDArray[np.float32]:
    return np.concatenate([item.outputs[name].reshape(-1, item.outputs[name].shape[-1]) for item in served])
