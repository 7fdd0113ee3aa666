"""The values that 8 bits can represent: unsigned with a zero point, signed around zero, or floating point (E4M3).

u8:   scale·(k - zero)   k = 0…255       activations of ONNX Runtime's kernels for x86
s8:   scale·k            k = -127…127    weights everywhere, activations of TensorRT
e4m3: scale·v            |v| ≤ 448       FP8 of TensorRT
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

Kind = Literal["u8", "s8", "e4m3"]
Float32 = npt.NDArray[np.float32]

DTYPES = {"u8": np.dtype(np.uint8), "s8": np.dtype(np.int8), "e4m3": np.dtype(ml_dtypes.float8_e4m3fn)}
LARGEST = {"s8": 127.0, "e4m3": 448.0}
SMALLEST_SCALE = 1e-12
"""The scale of a tensor of zeros."""


@dataclass(frozen=True)
class Levels:
    """The values to which a tensor is rounded.

    Attributes:
        kind: Kind of levels.
        scale: Distance between two integer levels, or the factor of E4M3 values.
        zero: The level that represents 0. It is not an integer if 0 lies between two levels, as for centred pixels.
    """

    kind: Kind
    scale: float
    zero: float = 0

    @classmethod
    def of(cls, kind: Kind, low: float, high: float) -> Levels:
        """Levels that cover a range.

        Args:
            kind: Kind of levels.
            low, high: Ends of the range, with ``low ≤ 0 ≤ high``; symmetric levels cover the larger magnitude.
        """
        if kind == "u8":
            scale = np.float32(max((high - low) / 255, SMALLEST_SCALE))
            return cls(kind, float(scale), int(np.clip(round(-low / float(scale)), 0, 255)))
        return cls(kind, float(np.float32(max(-low, high, SMALLEST_SCALE) / LARGEST[kind])))

    def nearest(self, x: Float32) -> Float32:
        """The nearest level of each value."""
        found = np.divide(x, np.float32(self.scale), dtype=np.float32)
        # Large arrays are changed in place, because new memory costs more than the arithmetic.
        if self.kind == "e4m3":
            found = round_scaled(found, self.kind).astype(np.float32)
        else:
            zero, least, most = (0, -127, 127) if self.kind == "s8" else (np.float32(self.zero), 0, 255)
            found += zero
            np.clip(np.rint(found, out=found), least, most, out=found)
            found -= zero
        found *= np.float32(self.scale)
        return found

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest level."""
        if self.kind == "u8":
            return -self.zero * self.scale, (255 - self.zero) * self.scale
        return -LARGEST[self.kind] * self.scale, LARGEST[self.kind] * self.scale


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight stored in 8 bits, ``values·scale``.

    Attributes:
        values: Stored values, [D, E] int8 or E4M3.
        scale: Scale of each output channel, [E] float32.
    """

    values: npt.NDArray[np.generic]
    scale: Float32

    @property
    def dequantized(self) -> Float32:
        """The values that the weight represents, [D, E]."""
        return self.values.astype(np.float32) * self.scale


CLIPS = np.linspace(1.0, 0.5, 21)
"""Fractions of a channel's largest magnitude that are tried as the end of its range."""


def weight_kind(activation: Kind) -> Kind:
    """The kind of levels of weights that are multiplied with such activations."""
    return "e4m3" if activation == "e4m3" else "s8"


def quantize_weight(weight: Float32, kind: Kind, importance: Float32 | None = None, *, clip: bool = True) -> Weight:
    """Round a weight, with a scale for each output channel.

    Args:
        weight: Weight to round, [D, E].
        kind: ``s8`` or ``e4m3``.
        importance: Variance of each input channel, [D], to which the cost of an error in its weight is proportional.
        clip: Use the scale of least squared error instead of the one that covers every weight. E4M3 is never clipped,
            because its levels are dense near zero.
    """
    largest = np.maximum(np.abs(weight).max(0), SMALLEST_SCALE)
    share = np.ones(weight.shape[1])
    if kind == "s8" and clip:
        cost = np.ones(len(weight), np.float32) if importance is None else importance
        errors = [_error(weight, (clip * largest / 127).astype(np.float32), cost) for clip in CLIPS]
        share = CLIPS[np.argmin(errors, axis=0)]
    scale = (share * largest / LARGEST[kind]).astype(np.float32)
    return Weight(round_scaled(weight / scale, kind), scale)


def _error(weight: Float32, scale: Float32, cost: Float32) -> Float32:
    """The squared error of rounding with a scale, for each output channel, [E]."""
    rounded = weight / scale
    np.clip(np.rint(rounded, out=rounded), -127, 127, out=rounded)
    rounded *= scale
    rounded -= weight
    return np.asarray(cost @ np.square(rounded, out=rounded))


def round_scaled(scaled: Float32, kind: Kind) -> npt.NDArray[np.generic]:
    if kind == "s8":
        scaled = np.rint(scaled)
    return np.clip(scaled, -LARGEST[kind], LARGEST[kind]).astype(DTYPES[kind])
