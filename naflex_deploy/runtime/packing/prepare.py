"""Turn one input into patches: decode, fit and patchify, as the profile and the model say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError, NaflexError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.images.boundary import as_input_error
from naflex_deploy.runtime.images.cutting import Cutter, Piece
from naflex_deploy.runtime.images.decode import decode
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.images.media.stills import FORMATS
from naflex_deploy.runtime.images.media.tame import pixels_of
from naflex_deploy.runtime.images.patchify import patchify
from naflex_deploy.runtime.images.source import Source, describe
from naflex_deploy.runtime.packing.guarded import decided, guarded
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result

LARGEST = 32_000_000
"""Pixels of a picture that a thread decodes. A larger one takes up to seven bytes a pixel for a while: a process of its
own has a limit, and gives them back."""

NICE = 10
"""Priority of processes beside a server, whose own threads come first."""


class Preparer:
    """Prepares images for one model.

    Args:
        model: How the model expects its pixels.
        profile: The profile, whose sections ``image`` and ``video`` are used.
        backend: Name of the backend whose budgets limit an image.
        prefix: Number of prefix tokens of the model.
    """

    def __init__(self, model: Preprocessing, profile: Profile, backend: str, prefix: int = 0) -> None:
        self._profile = profile
        self._cutter = Cutter(profile.image, model, profile.image_tokens(backend, prefix))

    @property
    def model(self) -> Preprocessing:
        """How the model expects its pixels."""
        return self._cutter.model

    @classmethod
    def of(cls, manifest: Manifest, variant: Variant) -> Preparer:
        """The preparer for a variant of a bundle."""
        return cls(manifest.preprocessing, manifest.config, variant.backend, manifest.model.prefix)

    def __call__(self, index: int, source: Source | Input | Patches) -> Iterator[list[Prepared]]:
        """Yield the images of each frame of one input: the whole frame, and its tiles where it is cut.

        A frame that cannot be prepared yields one image with its error. Where the reader of an input has no limit of
        its own, or takes much memory, it runs in another process.
        """
        if isinstance(source, Patches):
            yield [self._check(index, source)]
            return
        item = source if isinstance(source, Input) else Input(describe(source), source)
        if isinstance(item.source, NaflexError):
            yield [Prepared(Result(index, 0, item.name, error=item.source))]
            return
        item = decided(item)
        if not item.tame or (isinstance(item.source, bytes) and pixels_of(item.source) > LARGEST):
            yield from guarded(self.here, index, item, self._profile.limits)
        elif self._profile.image.frames == "first":
            yield from list(self.here(index, item))  # to its end, so that no picture is kept
        else:
            yield from self.here(index, item)

    def first(self, item: Input, check: Callable[[bytes], None], seconds: float = math.inf) -> list[Prepared]:
        """The images of the first frame of a picture.

        Args:
            item: As `decided` gives it, with its content.
            check: Raises an error where the picture is refused, by its header.
            seconds: Time for it, where its reader runs in another process, at a lower priority.

        Raises:
            ImageError: It is no picture.
        """
        if item.kind != "picture":
            raise ImageError(f"expected {FORMATS} data, found a {item.kind}", hint="send each page as one picture")
        if item.tame:
            return next(self.checked(0, item, check))
        limits = self._profile.limits
        limits = limits.model_copy(update={"seconds": min(limits.seconds, seconds)})
        (images,) = guarded(self.checked, 0, item, limits, check, nice=NICE)
        return images

    def apart(self, item: Input, seconds: float, max_pixels: int) -> Iterator[list[Prepared]]:
        """Like a call, always in another process, at a lower priority.

        Args:
            item: As `decided` gives it, with its content.
            seconds: Time for it.
            max_pixels: Of a frame, where the profile allows more.
        """
        image, limits = self._profile.image, self._profile.limits
        image = image.model_copy(update={"max_pixels": min(image.max_pixels, max_pixels)})
        limits = limits.model_copy(update={"seconds": min(limits.seconds, seconds)})
        bounded = copy(self)
        bounded._profile = self._profile.model_copy(update={"image": image})
        yield from guarded(bounded.here, 0, item, limits, nice=NICE)

    def checked(self, index: int, item: Input, check: Callable[[bytes], None]) -> Iterator[list[Prepared]]:
        """Like `here`, of the first frame alone, after a check."""
        assert isinstance(item.source, bytes)
        try:
            check(item.source)
        except NaflexError as error:
            yield [Prepared(Result(index, 0, item.name, error=error))]
        else:
            yield next(self.here(index, item))

    def here(self, index: int, item: Input) -> Iterator[list[Prepared]]:
        """Like a call, in this process."""
        assert not isinstance(item.source, NaflexError)
        name = item.name
        in_pairs = self.model.frames == 2 and self.model.clip is not None and self._profile.video.frames == "even"
        paired = in_pairs and item.kind == "video"
        # Of clips in pairs, the numbers are those of pairs.
        done = {2 * number + half for number in item.done for half in (0, 1)} if paired else item.done
        frames = read_frames(item.source, name=name, profile=self._profile, done=done, kind=item.kind)
        for frame, pieces in self._cut(self._limited(frames, name), name, paired=paired):
            size = frame.picture.size if frame.picture else (0, 0)
            result = Result(
                index,
                frame.number,
                name,
                size=size,
                aspect=frame.aspect,
                dpi=frame.dpi,
                time=frame.time,
                last=frame.last,
                merge=self._cutter.model.merge,
                warnings=tuple(decision.value for decision in frame.decisions if decision.warning),
            )
            if isinstance(pieces, Exception):
                yield [Prepared(replace(result, error=as_input_error(name, pieces)))]
                continue
            yield [
                Prepared(
                    replace(result, tile=tile, tiles=len(pieces), box=piece.box, grid_hw=piece.patches.grid_hw),
                    piece.patches,
                )
                for tile, piece in enumerate(pieces)
            ]

    def _limited(self, frames: Iterator[Frame], name: str) -> Iterator[Frame]:
        """Frames up to the limit of the profile; the first one beyond it is an error."""
        for frame in frames:
            if frame.number >= self._profile.limits.frames:
                what = f"{name}: expected at most {self._profile.limits.frames} frames, found more"
                error = ImageError(what, hint="raise limits.frames in the profile if its source is trusted")
                yield replace(frame, picture=None, last=True, error=error)
                return
            yield frame

    def _cut(
        self, frames: Iterator[Frame], name: str, *, paired: bool
    ) -> Iterator[tuple[Frame, Sequence[Piece] | Exception]]:
        """The pieces of each frame, or of each two frames of a clip, or the error that prevents it."""
        for frame in frames:
            if paired and frame.spread:
                number = frame.number // 2
                try:
                    for both, piece in self._cutter.pairs(chain([frame], frames), name):
                        number = both.number + 1
                        yield both, [piece]
                except Exception as error:
                    yield replace(frame, number=number, last=True), error
                return
            try:
                alone = frame.last and not frame.number
                _, pieces = self._cutter(frame, name if alone else f"{name}, frame {frame.number + 1}")
            except Exception as error:
                yield frame, error
            else:
                yield frame, pieces

    def pixels(self, image: npt.NDArray[np.uint8]) -> Patches:
        """The patches of one [h, w, 3] uint8 image, which is not resized where it fills its grid already.

        Raises:
            ImageError: The image cannot be prepared.
        """
        fit = self._cutter.layout((image.shape[0], image.shape[1])).whole
        model = self._cutter.model
        if fit.size == fit.canvas == image.shape[:2] and model.channels == 3 and model.frames == 1:
            return patchify(image, self._cutter.model.patch_size)
        return self._cutter.patches(next(decode(image, max_pixels=self._profile.image.max_pixels)), fit)

    def _check(self, index: int, patches: Patches) -> Prepared:
        """Patches that the caller has cut, or why the model cannot take them."""
        side, (h, w), name = self._cutter.model.patch_size, patches.grid_hw, describe(patches)
        size = (w * side, h * side)
        merge = self._cutter.model.merge
        result = Result(index, 0, name, size=size, box=(0, 0, *size), grid_hw=(h, w), merge=merge)
        values, found = self._cutter.model.patch_values, patches.pixels
        error = None
        if found.dtype != np.uint8 or found.shape[1] != values:
            what = f"expected {values} values of uint8 each, found {found.shape[1]} of {found.dtype}"
            error = ImageError(f"{name}: {what}", hint=f"cut it into patches of {side}x{side} RGB pixels")
        elif h % merge or w % merge:
            what = f"expected a grid of multiples of {merge}, which the language model takes as one, found {h}x{w}"
            error = ImageError(f"{name}: {what}", hint="cut or pad the image to such a grid")
        elif not self._cutter.accepts(found):
            what = "expected grey pixels, each of three equal values, found colours"
            error = ImageError(f"{name}: {what}", hint="make the image grey before you cut it")
        elif len(patches) > self._cutter.tokens:
            error = ImageError(f"{name}: expected at most {self._cutter.tokens} patches", hint="raise image.tokens")
        return Prepared(replace(result, error=error), None if error else patches)
