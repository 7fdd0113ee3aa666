"""A tensor as ``torch.save`` writes it, without torch.

The form is a zip file of a pickle that names the type and shape, and of the values. Servers that take tensors from
clients read it by ``torch.load(…, weights_only=True)``. Unlike ``.npy`` it has a name for bfloat16.
"""

from __future__ import annotations

import struct
from io import BytesIO
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

STORAGES = {"bfloat16": "BFloat16", "float16": "Half", "float32": "Float", "int64": "Long"}
"""What torch calls each type."""


def torch_file(values: npt.NDArray[np.generic], dtype: str = "") -> bytes:
    """Write a tensor.

    Args:
        values: Any shape.
        dtype: A name of `STORAGES`; ``bfloat16`` for values that hold its bits as uint16. Empty for their own type.
    """
    content = BytesIO()
    with ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", _description(values.shape, STORAGES[dtype or str(values.dtype)]))
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
        file.writestr("archive/version", "3\n")
    return content.getvalue()


def _description(shape: tuple[int, ...], storage: str) -> bytes:
    """The pickle of a contiguous tensor over storage 0: a call of what torch rebuilds tensors by."""
    size = int(np.prod(shape))
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    parts = [b"\x80\x02", _named("torch._utils", "_rebuild_tensor_v2"), b"(("]
    parts += [_text("storage"), _named("torch", f"{storage}Storage"), _text("0"), _text("cpu"), _number(size), b"tQ"]
    parts += [_number(0), b"(", *map(_number, shape), b"t(", *map(_number, strides), b"t"]
    parts += [b"\x89", _named("collections", "OrderedDict"), b")Rt", b"R."]  # no gradient, no hooks
    return b"".join(parts)


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)
