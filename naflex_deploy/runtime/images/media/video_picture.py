"""A decoded frame of a clip as a player shows it: its colours, its orientation, high dynamic range toned down."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Transpose

from naflex_deploy.runtime.images.media.frame import Decision

if TYPE_CHECKING:
    from av import VideoFrame

_UNTAGGED, _BT709 = 2, 1
"""Matrix coefficients (ITU-T H.273, table 4): none stated, and those of high definition."""

_PQ, _HLG = 16, 18
"""Transfer characteristics (ITU-T H.273, table 3) of high dynamic range."""

_STANDARD_LINES = 576
"""Lines above which players take untagged clips for BT.709."""

_TURNS: dict[tuple[int, int, int, int], tuple[Transpose, str]] = {
    (-1, 0, 0, 1): (Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    (1, 0, 0, -1): (Transpose.FLIP_TOP_BOTTOM, "mirrored upside down"),
    (-1, 0, 0, -1): (Transpose.ROTATE_180, "turned by 180 degrees"),
    (0, 1, -1, 0): (Transpose.ROTATE_270, "turned clockwise by 90 degrees"),
    (0, -1, 1, 0): (Transpose.ROTATE_90, "turned anticlockwise by 90 degrees"),
    (0, 1, 1, 0): (Transpose.TRANSPOSE, "mirrored along its diagonal"),
    (0, -1, -1, 0): (Transpose.TRANSVERSE, "mirrored along its other diagonal"),
}
"""By the signs of a display matrix: the point (x, y) goes to (ax + cy, bx + dy), y downwards."""

_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)
"""Linear BT.2020 to linear BT.709 (ITU-R BT.2087, annex 2, inverted)."""


def picture_of(frame: VideoFrame) -> tuple[Image.Image, bool, tuple[Decision, ...]]:
    """A frame as upright RGB, whether its sides were swapped by that, and what was decided."""
    rgb, decisions = _rgb(frame)
    turn = _TURNS.get(_matrix(frame))
    if turn is None:
        return Image.fromarray(rgb), False, decisions
    told = Decision("orientation", f"{turn[1]}: display matrix")
    swapped = turn[0] in (Transpose.ROTATE_90, Transpose.ROTATE_270, Transpose.TRANSPOSE, Transpose.TRANSVERSE)
    return Image.fromarray(rgb).transpose(turn[0]), swapped, (told, *decisions)


def _matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The signs of a, b, c, d of the display matrix; those of the identity where there is none."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    values = np.frombuffer(bytes(data), "<i4")
    a, b, c, d = (round(float(values[place]) / 65536) for place in (0, 1, 3, 4))
    return a, b, c, d


def _rgb(frame: VideoFrame) -> tuple[npt.NDArray[np.uint8], tuple[Decision, ...]]:
    if int(frame.color_trc) in (_PQ, _HLG):
        return _toned_down(frame)
    if int(frame.colorspace) == _UNTAGGED and frame.height > _STANDARD_LINES and not frame.format.is_rgb:
        shown = frame.reformat(format="rgb24", src_colorspace=_BT709)
        return np.asarray(shown.to_ndarray(), np.uint8), (
            Decision("colour", f"BT.709: untagged, {frame.height} lines"),
        )
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), ()


def _toned_down(frame: VideoFrame) -> tuple[npt.NDArray[np.uint8], tuple[Decision, ...]]:
    """High dynamic range to BT.709: linear light, the curve of J. Hable (2010) by its brightest channel, gamma 2.4.

    Light is measured in units of 100 cd/m², the white of standard range; the peak is that of the format, as FFmpeg's
    tone mapping has it.
    """
    pq = int(frame.color_trc) == _PQ
    deep = frame.reformat(format="rgb48le").to_ndarray()
    peak = 100.0 if pq else 10.0
    linear = (_pq_to_linear() if pq else _hlg_to_linear())[deep]
    if not pq:
        luminance = linear @ np.array([0.2627, 0.678, 0.0593], np.float32)
        linear = linear * np.power(np.maximum(luminance, 1e-6), 0.2)[..., None] * peak  # the OOTF of BT.2100, gamma 1.2
    narrow = np.maximum(linear @ _TO_BT709.T.astype(np.float32), 0)
    brightest = np.maximum(narrow.max(-1, keepdims=True), 1e-6)
    mapped = narrow * (_hable(brightest) / _hable(peak) / brightest)
    shown = np.rint(255 * np.power(np.clip(mapped, 0, 1), 1 / 2.4)).astype(np.uint8)
    return shown, (Decision("colour", f"{'PQ' if pq else 'HLG'} toned down to standard range", warning=True),)


def _hable(light: Any) -> Any:
    return (light * (0.15 * light + 0.05) + 0.004) / (light * (0.15 * light + 0.5) + 0.06) - 0.02 / 0.3


@cache
def _pq_to_linear() -> npt.NDArray[np.float32]:
    """Of 16-bit values, in units of 100 cd/m² (SMPTE ST 2084)."""
    root = np.power(np.arange(65536) / 65535, 1 / 78.84375)
    light = np.power(np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root), 1 / 0.1593017578125)
    return (light * 100).astype(np.float32)


@cache
def _hlg_to_linear() -> npt.NDArray[np.float32]:
    """Of 16-bit values, scene light 0 … 1 (ITU-R BT.2100, table 5)."""
    value = np.arange(65536) / 65535
    upper = (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(value <= 0.5, value**2 / 3, upper).astype(np.float32)
