"""Encodes arrays in JSON as dtype, shape, and compressed values."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt


def encode(array: npt.NDArray[Any]) -> dict[str, object]:
    """Encode an array as JSON values: little-endian, in row-major order, compressed by zlib, in base64."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    # The highest level takes fifteen times as long on a histogram, for a tenth less.
    packed = base64.b64encode(zlib.compress(little.tobytes())).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "zlib": packed}


def decode(content: dict[str, Any], dtype: str, dimensions: int) -> npt.NDArray[Any]:
    """Decode an array from `encode`.

    Args:
        content: The values that JSON holds.
        dtype: Expected dtype.
        dimensions: Expected number of dimensions.

    Raises:
        ValueError, KeyError, TypeError, zlib.error: The content is not such an array.
    """
    shape = [int(size) for size in content["shape"]]
    if content["dtype"] != dtype or len(shape) != dimensions or min(shape, default=0) < 0:
        raise ValueError(f"expected {dtype} of {dimensions} dimensions, found {content['dtype']} {shape}")
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    decompressor = zlib.decompressobj()
    values = decompressor.decompress(base64.b64decode(content["zlib"], validate=True), size + 1)
    if len(values) != size or not decompressor.eof:
        raise ValueError(f"expected {size} bytes, found {len(values)}")
    return np.frombuffer(values, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
