"""What a request may cost, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.images.decode import read_header
from naflex_deploy.serving.http.problems import Problem

Sent = bytes | npt.NDArray[np.uint8]
"""An image as it arrives: encoded, or [h, w, 3] pixels."""


@dataclass(frozen=True)
class Limits:
    """Of one request, and of all together.

    Attributes:
        body_bytes: Of one request, also once decompressed.
        buffered_bytes: Of all requests that are being received or answered.
        items: Images of one request.
        pixels: Of one image, width times height; the profile's own limit holds besides.
        aspect: Longer side over shorter side.
        receive_seconds: In which a request's body must arrive.
        deadline_seconds: In which it is answered, where the request names no shorter time.
    """

    body_bytes: int = 32 << 20
    buffered_bytes: int = 512 << 20
    items: int = 64
    pixels: int = 40_000_000
    aspect: float = 200.0
    receive_seconds: float = 10.0
    deadline_seconds: float = 30.0

    def check_count(self, count: int, param: str, hint: str) -> None:
        """Count the images of a request, which came in its part ``param``.

        Raises:
            Problem: There is none, or there are too many.
        """
        if not 1 <= count <= self.items:
            what = f"expected 1 to {self.items} images, found {count}"
            raise Problem(422, "too_many_items", what, hint=hint if count < 1 else "send fewer at once", param=param)

    def check(self, image: Sent) -> None:
        """Look at an image's header.

        Raises:
            ImageError: It is no image, has too many pixels, too unequal sides, or several frames.
        """
        if isinstance(image, bytes):
            width, height, frames = read_header(image)
        else:
            height, width, frames = image.shape[0], image.shape[1], 1
        if frames > 1:
            raise ImageError(f"expected one image, found {frames} frames", hint="send each frame as an image")
        if width < 1 or height < 1:
            raise ImageError(f"expected at least 1x1 pixels, found {width}x{height}", hint="leave it out")
        if width * height > self.pixels:
            raise ImageError(
                f"expected at most {self.pixels} pixels, found {width}x{height} = {width * height}", hint="shrink it"
            )
        if max(width, height) > self.aspect * min(width, height):
            raise ImageError(f"expected sides of at most {self.aspect:g}:1, found {width}x{height}", hint="crop it")
