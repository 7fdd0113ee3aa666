"""Any Pillow image or array to 8-bit RGB, upright."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.Image import Transpose

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media.depth import Said, from_fractions, to_eight_bits
from naflex_deploy.runtime.images.media.frame import Decision
from naflex_deploy.runtime.images.source import check_size

ORIENTATION = 0x0112
_UPRIGHT: dict[object, tuple[Transpose, str]] = {
    2: (Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    3: (Transpose.ROTATE_180, "turned by 180 degrees"),
    4: (Transpose.FLIP_TOP_BOTTOM, "mirrored upside down"),
    5: (Transpose.TRANSPOSE, "mirrored along its diagonal"),
    6: (Transpose.ROTATE_270, "turned clockwise by 90 degrees"),
    7: (Transpose.TRANSVERSE, "mirrored along its other diagonal"),
    8: (Transpose.ROTATE_90, "turned anticlockwise by 90 degrees"),
}
QUARTERS = (5, 6, 7, 8)
"""Orientations that swap the sides."""


_STRIP = 1 << 19
"""Pixels that are composited at once."""

LARGE = 1 << 25
"""Pixels above which a picture is never held twice: Pillow has four bytes for a pixel in RGB, and one in a channel."""


@dataclass(frozen=True)
class Stored:
    """What is known of a picture besides Pillow's image of it.

    Attributes:
        said: The range of its values.
        inverted: Whether the least value is white and Pillow did not turn that round.
        opaque: Whether an alpha channel that is 0 everywhere means nothing.
        dtype: Of its values, where Pillow holds them in another.
        missing: The value of pixels that hold nothing.
        own: Whether nobody else has Pillow's image, so that it may be closed.
    """

    said: Said | None = None
    inverted: bool = False
    opaque: bool = False
    dtype: str | None = None
    missing: float | None = None
    own: bool = False


PLAIN = Stored()


def orientation(image: Image.Image) -> object:
    """The EXIF orientation; ``None`` where there is none or the block cannot be read, as the pixels are sound."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:
        return None


def turn_of(number: object) -> Decision | None:
    """What an EXIF orientation asks for."""
    found = _UPRIGHT.get(number)
    return Decision("orientation", f"{found[1]}: EXIF orientation {number}") if found else None


def upright(image: Image.Image, number: object, *, own: bool = False) -> Image.Image:
    """The picture as its EXIF orientation wants it seen; ``own`` where it may be closed."""
    found = _UPRIGHT.get(number)
    if found is None:
        return image
    if not own or image.width * image.height <= LARGE:
        return image.transpose(found[0])
    channels = list(image.split())
    image.close()
    turned = [channels.pop(0).transpose(found[0]) for _ in range(len(channels))]
    return Image.merge("RGB", turned)


def to_srgb(picture: Image.Image, section: ImageSection, own: bool = False) -> tuple[Image.Image, tuple[Decision, ...]]:
    """A loaded picture by its colour profile, with the profile's own intent, where the section wants that.

    It stays as it is where it has no profile, or one that cannot be used, which a warning says. What is ``own`` is
    changed in place where it keeps its mode.
    """
    content = picture.info.get("icc_profile") if section.icc else None
    if not content:
        return picture, ()
    transparent = picture.has_transparency_data
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(content))
        title = ImageCms.getProfileDescription(source).strip()
        indirect = picture.mode in ("P", "PA") or (transparent and picture.mode == "RGB")
        stored = picture.convert("RGBA" if transparent else "RGB") if indirect else picture
        mode = "RGBA" if stored.mode == "RGBA" else "RGB"
        same = own and stored is picture and stored.mode == mode
        srgb = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(stored, source, srgb, outputMode=mode, inPlace=same)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return picture, (Decision("colour", f"its profile is not used: {error}", warning=True),)
    return shown or picture, (Decision("colour", f"brought to sRGB by the profile {title!r}"),)


def to_rgb(
    image: Image.Image, name: str, section: ImageSection, stored: Stored = PLAIN
) -> tuple[Image.Image, tuple[Decision, ...]]:
    """A loaded image as RGB; the image itself where it is RGB already.

    Transparent pixels are composited over white, CMYK is converted by Pillow, 16-bit grey and floating point go
    through `to_eight_bits`. Pillow keeps the high byte of 16-bit colour.

    Raises:
        ImageError: Its values have no range, or it is CIELAB.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        shown, decision = to_eight_bits(_values(image, stored), section.range, name, stored.said, stored.missing)
        grey = Image.fromarray(255 - shown if stored.inverted else shown)
        return grey.convert("RGB"), (decision,)
    if image.mode == "LAB":
        raise ImageError(
            f"{name}: expected integer grey, RGB or CMYK pixels, found CIELAB ones", hint="convert it to RGB"
        )
    if image.has_transparency_data:
        if stored.opaque and image.getchannel("A").getextrema() == (0, 0):
            decision = Decision("colour", "alpha ignored: it is 0 everywhere", warning=True)
            return _plain(image, stored.own), (decision,)
        return _by_strips(image, stored.own, _over_white), (Decision("colour", "transparency composited over white"),)
    if image.mode == "RGB":
        return image, ()
    decisions = (Decision("colour", "CMYK converted without a profile"),) if image.mode == "CMYK" else ()
    return _plain(image, stored.own), decisions


def _plain(image: Image.Image, own: bool) -> Image.Image:
    """RGB of a picture without transparency."""
    whole = not _apart(image, own)
    return image.convert("RGB") if whole else _by_strips(image, own, lambda strip: strip.convert("RGB"))


def _apart(image: Image.Image, own: bool) -> bool:
    """Whether a picture has four bytes a pixel, and too many of them to be held twice."""
    return own and image.width * image.height > LARGE and len(image.getbands()) > 1


def _over_white(strip: Image.Image) -> Image.Image:
    strip = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Some rows of a picture at a time, each with the number of the first."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _by_strips(image: Image.Image, own: bool, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A picture as RGB, some rows at a time: it may fill much of the memory as it is.

    Where it must go before there is another of its size, its channels are kept, of one byte a pixel each.
    """
    apart = _apart(image, own)
    channels = [Image.new("L" if apart else "RGB", image.size) for _ in range(3 if apart else 1)]
    for top, strip in _strips(image):
        shown = convert(strip)
        for channel, part in zip(channels, shown.split() if apart else [shown], strict=True):
            channel.paste(part, (0, top))
    if not apart:
        return channels[0]
    image.close()
    return Image.merge("RGB", channels)


def _values(image: Image.Image, stored: Stored) -> npt.NDArray[Any]:
    """[h, w] values of a grey picture of more than 8 bits, by strips, as Pillow holds thrice what it gives."""
    found: npt.NDArray[Any] | None = None
    for top, strip in _strips(image):
        values = np.asarray(strip)
        if stored.dtype is not None:
            values = values.view(stored.dtype) if stored.dtype == "uint32" else values.astype(stored.dtype)
        found = np.empty((image.height, image.width), values.dtype) if found is None else found
        found[top : top + len(values)] = values
    if stored.own:
        image.close()
    assert found is not None, "a picture has rows"
    return found


def from_array(array: npt.NDArray[Any], name: str, section: ImageSection) -> tuple[Image.Image, tuple[Decision, ...]]:
    """An array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as RGB; of other types than uint8 by `to_eight_bits`.

    Floats in 0…1 are brightness, as most Python libraries have it, where no range is set.

    Raises:
        ImageError: It has another shape, or its values have no range.
    """
    kind = array.dtype.kind
    fractions = kind == "f" and section.range == "file"
    known = fractions or array.dtype.name in ("uint8", "uint16")
    if not known and (section.range in ("file", "full") or kind not in "iuf"):
        raise ImageError(
            f"{name}: expected an array of uint8, uint16 or floats in 0..1, found {array.dtype}",
            hint="scale it to 0..255 and convert it with .astype(numpy.uint8), or set image.range",
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"{name}: expected shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], found {list(array.shape)}",
            hint="put the channels last, and pass the images of a batch one by one",
        )
    check_size(array.shape[1], array.shape[0], name, section.max_pixels)
    decisions: tuple[Decision, ...] = ()
    if array.dtype.name != "uint8":
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        array, decision = from_fractions(native, name) if fractions else to_eight_bits(native, section.range, name)
        decisions = (decision,)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    rgb, more = to_rgb(Image.fromarray(np.ascontiguousarray(array)), name, section)
    return rgb, decisions + more
