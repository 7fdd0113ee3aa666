"""Vectors of several inputs, with the input and frame that each of them is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.results.result import Result

T = TypeVar("T")
Float = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One vector per frame, in the order of the inputs; a page of a document and a frame of a clip are frames.

    Attributes:
        vectors: [N, D] float32.
        inputs: [N] int64; index of the input that each vector is of, from 0.
        frames: [N] int64; index of the frame, page or slice in its input, from 0.
        boxes: [N, 4] float64; (left, top, right, bottom) of what the vector is of, in pixels of the frame.
    """

    vectors: Float
    inputs: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]

    @classmethod
    def of(cls, frames: Sequence[Result], vectors: Float) -> Embeddings:
        return cls(
            vectors,
            np.array([frame.input for frame in frames], np.int64),
            np.array([frame.frame for frame in frames], np.int64),
            np.array([frame.box for frame in frames], np.float64).reshape(-1, 4),
        )

    def __len__(self) -> int:
        return len(self.inputs)


def unit(vectors: Float) -> Float:
    """Vectors [..., D] divided by their lengths; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def only(frames: Sequence[Result], found: Sequence[T]) -> T:
    """What was found for the only frame.

    Raises:
        UsageError: There are several, or none.
    """
    if len(frames) == 1:
        return found[0]
    name = frames[0].name if frames else "the input"
    raise UsageError(
        f"{name}: expected one image, found {len(frames)} frames",
        hint="put it into a list to get a result per frame; embed(..., return_index=True) says which is which",
    )
