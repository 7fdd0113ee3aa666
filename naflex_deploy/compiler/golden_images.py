"""Making the golden images: a dozen small pictures, each with something that image libraries treat differently."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def golden_contents() -> dict[str, bytes]:
    """Encoded pictures by what is odd about them. The pixels are the same whenever they are made."""
    grey16 = np.linspace(0, 65535, 61 * 47).astype(np.uint16).reshape(61, 47)
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = _picture(50, 70).quantize(31)
    alpha = _picture(45, 81).convert("RGBA")
    alpha.putalpha(Image.fromarray(_noise(81, 45, 1)[..., 0]))
    fax = Image.fromarray(_noise(40, 90, 2)[..., 0] > 100)
    return {
        "jpeg, chroma at half the resolution": _encoded(_picture(93, 71), "JPEG", quality=80),
        "jpeg, full chroma": _encoded(_picture(64, 129), "JPEG", quality=90, subsampling=0, progressive=True),
        "jpeg, turned by EXIF": _encoded(_picture(111, 53), "JPEG", exif=turned),
        "jpeg, cmyk": _encoded(_picture(72, 60).convert("CMYK"), "JPEG", quality=90),
        "png, a column that shrinks tenfold": _encoded(_picture(31, 700), "PNG"),
        "png, a row that shrinks tenfold": _encoded(_picture(700, 31), "PNG"),
        "png, 16-bit grey": _encoded(Image.fromarray(grey16), "PNG"),
        "png, palette": _encoded(palette, "PNG", transparency=3),
        "webp, lossy": _encoded(_picture(83, 59), "WEBP", quality=80),
        "webp, lossless, transparent": _encoded(alpha, "WEBP", lossless=True),
        "tiff, a fax page of 204 by 98 dots per inch": _encoded(fax, "TIFF", compression="group4", dpi=(204, 98)),
        "bmp, enlarged": _encoded(_picture(7, 5), "BMP"),
    }


def _noise(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _picture(width: int, height: int) -> Image.Image:
    """Blocks of colour with some noise, from integers alone."""
    coarse = _noise(-(-height // 6), -(-width // 6), width).repeat(6, 0).repeat(6, 1)[:height, :width]
    return Image.fromarray((coarse // 8 * 7 + _noise(height, width, height) // 8).astype(np.uint8))


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()
