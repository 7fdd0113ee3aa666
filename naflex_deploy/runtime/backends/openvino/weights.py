"""Weights in OpenVINO's memory, in bf16 where products read them in bf16.

OpenVINO keeps what it is given beside its own copy in the layout of its kernels. It would widen constants of bf16 to
float32 when it compiles, unless the conversion is marked as one of compressed weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import BundleError

if TYPE_CHECKING:
    import openvino

BLOCK = 2**16
"""Values that are read at a time, which stay in the cache until they are rounded."""

COMPRESSED = ("decompression_0", "DisableConstantFolding_0")
"""OpenVINO's marks of a conversion that must not be computed when compiling."""


def weight(root: Path, entry: dict[str, Any], table: Path, *, low: bool) -> openvino.Output:
    """A weight as part of a graph, in float32 or in integers for its readers.

    Args:
        root: Of the bundle.
        entry: Of the table of weights: ``file`` relative to the root, ``offset``, ``dtype``, ``shape``, and, where its
            values have to be multiplied, ``factor``.
        table: Path of the table, for messages.
        low: Whether to round float32 to bf16, as OpenVINO would.

    Raises:
        BundleError: The entry names what is not there.
    """
    from openvino import Tensor, Type, op
    from openvino import opset13 as ops

    try:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        low = low and dtype == np.float32
        tensor = Tensor(Type.bf16 if low else Type(dtype), shape)
        values = tensor.data.reshape(-1).view(np.uint16 if low else dtype)
        _read(values, root, entry, dtype)
    except (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{table}: cannot read weights: {error}", hint="build the bundle again") from None
    constant = op.Constant(tensor, shared_memory=True)
    if not low:
        return constant.output(0)
    wide = ops.convert(constant, np.float32)
    for mark in COMPRESSED:
        wide.get_rt_info()[mark] = True
    return wide.output(0)


def _read(values: npt.NDArray[Any], root: Path, entry: dict[str, Any], dtype: np.dtype[Any]) -> None:
    path = (root / entry["file"]).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"{entry['file']} lies outside the bundle")
    block = np.empty(min(BLOCK, len(values)), dtype)
    with path.open("rb") as stream:
        stream.seek(entry["offset"])
        for start in range(0, len(values), BLOCK):
            part = block[: len(values) - start]
            if stream.readinto(part.view(np.uint8)) != part.nbytes:
                raise ValueError(f"{entry['file']} ends too early")
            if "factor" in entry:
                part *= dtype.type(entry["factor"])
            values[start : start + BLOCK] = part if values.dtype == dtype else rounded(part)


def rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of float32 values, rounded to the nearest bf16, to the even one of two."""
    bits = values.view(np.uint32)
    found: npt.NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return found
