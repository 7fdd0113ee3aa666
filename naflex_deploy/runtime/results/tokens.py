"""Tokens in the forms that decoders take: merged in blocks, in half precision, or in the memory of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.results.result import Result

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Packed:
    """An output of a whole pack, as the engine returned it.

    Attributes:
        values: [rows, D], an object that supports DLPack.
        rows: The rows of each image: those of its patches or blocks of patches, in the order of its grid, or its one
            row of an output per image.
        results: The result of each image, without outputs.
    """

    values: Any
    rows: tuple[slice, ...]
    results: tuple[Result, ...]

    @classmethod
    def of(cls, pack: Pack, values: Any, results: Sequence[Result], tokens_per_row: int) -> Packed:
        """Find the rows of each image in an output of its pack, which hold so many tokens; 0 for a row per image."""
        per_token = tokens_per_row > 0
        starts = ((pack.offsets[:-1] + pack.prefix) // tokens_per_row).tolist() if per_token else range(pack.images)
        stops = (pack.offsets[1:] // tokens_per_row).tolist() if per_token else range(1, pack.images + 1)
        return cls(values, tuple(map(slice, starts, stops)), tuple(results))


def merge_blocks(grid: Floats, side: int) -> Floats:
    """Merge each block of ``side`` rows and columns into one token: [h, w, D] → [h/side, w/side, side²·D].

    The tokens of a block are concatenated row by row, as LFM2-VL's pixel-unshuffle and Qwen2-VL's patch merger do.

    Raises:
        UsageError: The grid cannot be divided into such blocks.
    """
    h, w, depth = grid.shape
    if side < 1 or h % side or w % side:
        raise UsageError(
            f"merge: a grid of {h}x{w} does not divide into blocks of {side}x{side}",
            hint=f"set image.multiple = {side} in the profile and build again",
        )
    blocks = grid.reshape(h // side, side, w // side, side * depth).swapaxes(1, 2)
    return blocks.reshape(h // side, w // side, side * side * depth)


def narrowed(values: Floats, dtype: npt.DTypeLike) -> Any:
    """Convert values to float32, float16 or bfloat16; values of that type are returned as they are.

    numpy has no bfloat16: its values are returned as uint16, which ``torch.from_numpy(found).view(torch.bfloat16)``
    reads as what they are. They are rounded to the nearest, halves to even.

    Raises:
        UsageError: ``dtype`` is another type, or a value is beyond its range.
    """
    if dtype == "bfloat16":
        bits = values.astype(np.float32, copy=False).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float16):
        raise UsageError(f"dtype: expected float32, float16 or bfloat16, found {dtype}")
    with np.errstate(over="ignore"):
        found: Floats = values.astype(dtype, copy=False)
    if not np.isfinite(found).all():
        raise UsageError(f"a token holds {np.abs(values).max():g}, beyond {dtype}", hint="take float32")
    return found
