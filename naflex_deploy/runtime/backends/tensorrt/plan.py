"""Read the header of a TensorRT-RTX plan before the plan is deserialised."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from naflex_deploy.core.errors import BundleError, IncompatibleError

MAGIC = b"vtrt"
REBUILD = "make this variant again on this machine: naflex-deploy bundle rebuild"

LENGTH = 64
"""Number of bytes that are read of a header."""

TARGETS = {"sm75": 0x01, "sm80": 0x02, "sm86": 0x04, "sm89": 0x08, "sm120": 0x10, "sm121": 0x20}
"""Bits that mark the architectures a plan has kernels for. The library's default target has a further bit."""


@dataclass(frozen=True)
class PlanHeader:
    """The header of a plan.

    Attributes:
        size: Size of the whole plan in bytes.
        version: Version of the library that built it, such as ``1.7.1.116``.
        targets: Architectures that it runs on.
    """

    size: int
    version: str
    targets: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes, source: str) -> PlanHeader:
        """Read a header.

        Args:
            data: The first bytes of a plan.
            source: Name of the plan in messages.

        Raises:
            IncompatibleError: It is not a TensorRT-RTX plan.
        """
        if len(data) < LENGTH or data[:4] != MAGIC:
            raise IncompatibleError(
                f"{source}: expected a TensorRT-RTX plan, found {_kind(data)}",
                hint=REBUILD,
            )
        (size,) = struct.unpack_from("<Q", data, 0x10)
        numbers = struct.unpack_from("<4B", data, 0x18)
        (mask,) = struct.unpack_from("<I", data, 0x20)
        return cls(size, ".".join(map(str, numbers)), tuple(sm for sm, bit in TARGETS.items() if mask & bit))

    @classmethod
    def read(cls, path: Path) -> PlanHeader:
        """Read the header of a file, and compare the size in it with the size of the file.

        Raises:
            IncompatibleError: See `parse`.
            BundleError: The file is truncated.
        """
        with path.open("rb") as stream:
            header = cls.parse(stream.read(LENGTH), str(path))
        if header.size != path.stat().st_size:
            raise BundleError(
                f"{path}: expected a plan of {header.size} bytes, found {path.stat().st_size}",
                hint="copy or build the bundle again",
            )
        return header


def refuse_foreign(path: Path) -> None:
    """Refuse a file that cannot be a TensorRT plan. The header of such plans is not documented.

    Raises:
        IncompatibleError: The file is empty, or is a TensorRT-RTX plan.
    """
    with path.open("rb") as stream:
        data = stream.read(LENGTH)
    if not data or data[:4] == MAGIC:
        raise IncompatibleError(f"{path}: expected a TensorRT plan, found {_kind(data)}", hint=REBUILD)


def _kind(data: bytes) -> str:
    if not data:
        return "an empty file"
    if data[:4] == MAGIC:
        return "a TensorRT-RTX plan"
    return "a TensorRT plan" if data[1:4] == b"trt" and data[:1] in b"fp" else "something else"
