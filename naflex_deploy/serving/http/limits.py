"""Limits of a request, checked before anything is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.images.decode import read_header
from naflex_deploy.serving.http.problems import Problem

Sent = bytes | npt.NDArray[np.uint8]
"""An image as it is received: an encoded file, or [h, w, 3] pixels."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests together.

    Attributes:
        body_bytes: Maximum size of a request's body, before and after decompression.
        buffered_bytes: Maximum size of the bodies of all requests that are being received or answered. As with
            connections, a client may hold as much as is still free: half of it where there is no other.
        items: Maximum number of images per request.
        pixels: Maximum width times height of an image; the limit in the profile applies as well.
        aspect: Maximum ratio of the longer side of an image to the shorter one.
        receive_seconds: Time within which a request's headers must arrive, and its body after them.
        deadline_seconds: Time within which a request is answered, unless it asks for a shorter one.
        goal_seconds: Time within which a request should be answered: one that would wait longer is refused when it
            arrives. 0 for the deadline.
        connections: Maximum number of connections.
        idle_seconds: Time after which a connection without a request is closed.
        head_bytes: Maximum size of a request's headers.
    """

    body_bytes: int = 32 << 20
    buffered_bytes: int = 512 << 20
    items: int = 64
    pixels: int = 40_000_000
    aspect: float = 200.0
    receive_seconds: float = 10.0
    deadline_seconds: float = 30.0
    goal_seconds: float = 0.0
    connections: int = 4096
    idle_seconds: int = 30
    head_bytes: int = 64 << 10

    def goal(self, seconds: float | None = None) -> float:
        """Seconds within which a request should be answered, where it allows so many itself."""
        return min(seconds or math.inf, self.goal_seconds or math.inf, self.deadline_seconds)

    def check_count(self, count: int, param: str, hint: str) -> None:
        """Check the number of images in the part ``param`` of a request.

        Raises:
            Problem: There are no images, or too many.
        """
        if not 1 <= count <= self.items:
            what = f"expected 1 to {self.items} images, found {count}"
            raise Problem(
                422, "too_many_items", what, hint=hint if count < 1 else "send fewer images at once", param=param
            )

    def check(self, image: Sent) -> None:
        """Check the header of an image.

        Raises:
            ImageError: It is not an image, has several frames or too many pixels, or its sides are too unequal.
        """
        if isinstance(image, bytes):
            width, height, frames = read_header(image)
        else:
            height, width, frames = image.shape[0], image.shape[1], 1
        if frames > 1:
            raise ImageError(f"expected one image, found {frames} frames", hint="send each frame as one image")
        self.check_size(width, height)

    def check_size(self, width: int, height: int) -> None:
        """Check the size of an image, or of a page.

        Raises:
            ImageError: It has too many pixels, or its sides are too unequal.
        """
        if width < 1 or height < 1:
            raise ImageError(f"expected at least 1x1 pixels, found {width}x{height}", hint="leave this image out")
        if width * height > self.pixels:
            raise ImageError(
                f"expected at most {self.pixels} pixels, found {width}x{height} = {width * height}",
                hint="shrink the image",
            )
        if max(width, height) > self.aspect * min(width, height):
            raise ImageError(
                f"expected an aspect ratio of at most {self.aspect:g}:1, found {width}x{height}", hint="crop the image"
            )
