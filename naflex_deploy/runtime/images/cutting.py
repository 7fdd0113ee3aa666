"""From one frame to the patches of its images: layout, fit, patchify, as the profile and the model want it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.fit import Fit, apply_fit
from naflex_deploy.runtime.images.media.frame import Frame, Picture
from naflex_deploy.runtime.images.patchify import patchify
from naflex_deploy.runtime.images.sizing import plan_clip
from naflex_deploy.runtime.images.tiles import Box, Layout, plan_layout


@dataclass(frozen=True, eq=False)
class Piece:
    """One image that became of a frame.

    Attributes:
        box: (left, top, right, bottom) in stored pixels of the frame.
        patches: What the model gets.
    """

    box: Box
    patches: Patches


def spanning(first: Patches, second: Patches) -> Patches:
    """Patches that span two frames: the values of the first, and then those of the second, [h·w, 2·P·P·C]."""
    return Patches(np.concatenate([first.pixels, second.pixels], axis=1), first.grid_hw)


@dataclass(frozen=True)
class Cutter:
    """Cuts frames for one model.

    Attributes:
        image: Section of the profile.
        model: How the model wants its pixels.
        tokens: Most patches of one image.
    """

    image: ImageSection
    model: Preprocessing
    tokens: int

    def __call__(self, frame: Frame, name: str) -> tuple[Layout, list[Piece]]:
        """The whole of a frame, and its tiles where there are any.

        Raises:
            ImageError: The frame has an error, or cannot be brought to the tokens of the model.
        """
        if frame.picture is None:
            raise frame.error or ImageError(f"{name}: expected pixels, found none", hint="leave it out")
        width, height = frame.picture.size
        shown_width, shown_height = frame.shown_size
        layout = self.layout((shown_height, shown_width), frame.dpi, name)
        found = [self.patches(frame.picture, layout.whole)]
        if layout.page:
            page = self.patches(frame.picture, layout.page)
            found += [tile.cut(page) for tile in layout.tiles]
        boxes = layout.boxes((height, width))
        return layout, [Piece(box, patches) for box, patches in zip(boxes, found, strict=True)]

    def layout(self, size: tuple[int, int], dpi: float | None = None, name: str = "<pixels>") -> Layout:
        """How a frame of (height, width) ``size`` in square pixels becomes images."""
        return plan_layout(size, image=self.image, model=self.model, tokens=self.tokens, dpi=dpi, name=name)

    def patches(self, picture: Picture, fit: Fit) -> Patches:
        """A picture, resampled once, as patches. Padding has the model's own colour, or else the one it subtracts."""
        red, green, blue = self.model.padding or (round(255 * min(max(mean, 0.0), 1.0)) for mean in self.model.mean)
        # Grey before it is resized, as the libraries do; a page that is drawn to size becomes grey once it is drawn.
        grey = self.model.channels == 1
        drawn = picture.convert("L").convert("RGB") if grey and isinstance(picture, Image.Image) else picture
        pixels = apply_fit(
            drawn,
            fit,
            resample=self.model.resample,
            antialias=self.model.antialias,
            background=(red, green, blue),
        )
        if grey and drawn is picture:
            pixels = np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
        found = patchify(pixels, self.model.patch_size)
        return found if self.model.frames == 1 else spanning(found, found)

    def pairs(self, frames: Iterable[Frame], name: str) -> Iterator[tuple[Frame, Piece]]:
        """Frames of a clip, two by two: the first frame, with the mean of their times, and the patches of both.

        A frame that is left over stands for two. The frames are sized together, by the first.

        Raises:
            ImageError: A frame has an error, or cannot be brought to the tokens of the model.
        """
        rule = self.model.clip
        assert rule is not None
        one = replace(self, model=self.model.model_copy(update={"frames": 1}))
        first: tuple[Frame, Patches] | None = None
        fit: Fit | None = None
        for frame in frames:
            if frame.picture is None:
                raise frame.error or ImageError(f"{name}: expected pixels, found none", hint="leave it out")
            width, height = frame.shown_size
            merge = math.lcm(self.image.multiple, self.model.merge)
            fit = fit or plan_clip(
                (height, width),
                rule,
                frame.spread,
                patch_size=self.model.patch_size,
                merge=merge,
                tokens=self.tokens,
                name=name,
            )
            box = (0, 0, *frame.picture.size)
            patches = one.patches(frame.picture, fit)
            if first is None and not frame.last:
                first = frame, patches
                continue
            before, early = first or (frame, patches)
            first = None
            time = None if frame.time is None or before.time is None else (before.time + frame.time) / 2
            yield (
                replace(before, number=before.number // 2, time=time, last=frame.last),
                Piece(box, spanning(early, patches)),
            )

    def accepts(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> bool:
        """Whether the model sees the colours of patches that were cut elsewhere: a grey one takes equal channels."""
        channels = pixels.reshape(-1, 3)
        return self.model.channels == 3 or bool((channels == channels[:, :1]).all())
