"""Weights for OpenVINO, in bf16 where products read them in bf16.

OpenVINO keeps what it is given beside its own copy in the layout of its kernels. It would widen constants of bf16 to
float32 when it compiles, unless the conversion is marked as one of compressed weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import openvino

BLOCK = 2**16
"""Values that are read at a time, which stay in the cache until they are rounded."""

COMPRESSED = ("decompression_0", "DisableConstantFolding_0")
"""OpenVINO's marks of a conversion that must not be computed when compiling."""


@dataclass(frozen=True)
class Weight:
    """A weight of a graph, in a file of its bundle.

    Attributes:
        file: Relative to the bundle.
        offset: Of its first byte.
        dtype: In the file.
        shape: Of any number of axes.
        factor: By which its values have to be multiplied.
        low: Whether to round it to bf16, as OpenVINO would.
    """

    file: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    factor: float | None
    low: bool

    @classmethod
    def of(cls, entry: dict[str, Any], *, low: bool) -> Weight:
        """From an entry of the table; only float32 is ever rounded.

        Raises:
            KeyError, TypeError, ValueError: The entry names what there cannot be.
        """
        dtype, shape = np.dtype(entry["dtype"]), tuple(map(int, entry["shape"]))
        if min(shape, default=0) < 0:
            raise ValueError(f"shape {list(shape)}")
        low = low and dtype == np.float32
        return cls(entry["file"], entry["offset"], dtype, shape, entry.get("factor"), low)

    @property
    def kept(self) -> np.dtype[Any]:
        """In which its values are kept, those of bf16 as their bits."""
        return np.dtype(np.uint16) if self.low else self.dtype

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * self.kept.itemsize

    def read(self, root: Path, memory: npt.NDArray[np.uint8]) -> openvino.Output:
        """As part of a graph, in float32 or in integers for its readers.

        Args:
            root: Of the bundle.
            memory: [size] for its values, which has to last as long as the graph is used.

        Raises:
            OSError, TypeError, ValueError: The file does not hold it.
        """
        from openvino import Tensor, Type, op
        from openvino import opset13 as ops

        values = memory.view(self.kept)
        _read(values, root, self)
        constant = op.Constant(
            Tensor(values, self.shape, Type.bf16 if self.low else Type(self.dtype)), shared_memory=True
        )
        if not self.low:
            return constant.output(0)
        wide = ops.convert(constant, np.float32)
        for mark in COMPRESSED:
            wide.get_rt_info()[mark] = True
        return wide.output(0)


def _read(values: npt.NDArray[Any], root: Path, weight: Weight) -> None:
    path = (root / weight.file).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"{weight.file} lies outside the bundle")
    block = np.empty(min(BLOCK, len(values)), weight.dtype)
    with path.open("rb") as stream:
        stream.seek(weight.offset)
        for start in range(0, len(values), BLOCK):
            part = block[: len(values) - start]
            if stream.readinto(part.data.cast("B")) != part.nbytes:
                raise ValueError(f"{weight.file} ends too early")
            if weight.factor is not None:
                part *= weight.dtype.type(weight.factor)
            values[start : start + BLOCK] = rounded(part) if weight.low else part


def rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of float32 values, rounded to the nearest bf16, to the even one of two."""
    bits = values.view(np.uint32)
    found: npt.NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return found
