"""Tokens as decoders take them: merged, in half precision, or where the engine left them."""

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
        values: [rows, D], an object that speaks DLPack.
        rows: Of each image, those that are its patches, row by row of its grid; of a per-image output, its one.
        results: What is known of each image, without outputs.
    """

    values: Any
    rows: tuple[slice, ...]
    results: tuple[Result, ...]

    @classmethod
    def of(cls, pack: Pack, values: Any, results: Sequence[Result], *, per_token: bool) -> Packed:
        """Lay the rows of an output out as its pack is."""
        starts = (pack.offsets[:-1] + pack.prefix).tolist() if per_token else range(pack.images)
        stops = pack.offsets[1:].tolist() if per_token else range(1, pack.images + 1)
        return cls(values, tuple(map(slice, starts, stops)), tuple(results))


def merge_blocks(grid: Floats, side: int) -> Floats:
    """Tokens of each block of ``side`` rows and columns in one: [h, w, D] → [h/side, w/side, side²·D].

    Inside a block, row by row: as LFM2-VL's pixel-unshuffle and Qwen2-VL's patch merger lay them.

    Raises:
        UsageError: The grid does not divide.
    """
    h, w, depth = grid.shape
    if side < 1 or h % side or w % side:
        raise UsageError(
            f"merge: a grid of {h}x{w} does not divide into blocks of {side}x{side}",
            hint=f"set image.multiple = {side} in the profile and build again",
        )
    blocks = grid.reshape(h // side, side, w // side, side * depth).swapaxes(1, 2)
    return blocks.reshape(h // side, w // side, side * side * depth)


def narrowed(values: Floats, dtype: np.dtype[Any]) -> Floats:
    """Values as float32 or float16; themselves where they are that already.

    Raises:
        UsageError: It is no such type, or a value is beyond its range.
    """
    if dtype not in (np.float32, np.float16):
        raise UsageError(f"dtype: expected float32 or float16, found {dtype}")
    with np.errstate(over="ignore"):
        found: Floats = values.astype(dtype, copy=False)
    if not np.isfinite(found).all():
        raise UsageError(f"a token holds {np.abs(values).max():g}, beyond {dtype}", hint="take float32")
    return found
