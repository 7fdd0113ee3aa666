"""From one input to patches: decode, fit, patchify, as the profile and the model want it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.decode import Source, decode, describe
from naflex_deploy.runtime.fit import apply_fit, plan_fit
from naflex_deploy.runtime.patchify import patchify


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image ready to be packed, or why it cannot be.

    Attributes:
        input: Which of the inputs, from 0.
        frame: Which frame of it, from 0.
        name: How messages call it.
        size: (width, height) in pixels as decoded.
        patches: ``None`` where there is an error.
    """

    input: int
    frame: int
    name: str
    size: tuple[int, int] = (0, 0)
    patches: Patches | None = None
    error: ImageError | None = None


class Preparer:
    """Prepares images for one model.

    Args:
        model: How it wants its pixels.
        profile: Gives the image section.
        backend: Whose budgets bound one image.
        prefix: Prefix tokens of the model.
    """

    def __init__(self, model: Preprocessing, profile: Profile, backend: str, prefix: int = 0) -> None:
        self._model = model
        self._image = profile.image
        self._tokens = profile.image_tokens(backend, prefix)
        red, green, blue = (round(255 * mean) for mean in self._model.mean)
        self._background = (red, green, blue)

    @classmethod
    def of(cls, manifest: Manifest, variant: Variant) -> Preparer:
        """That of a variant of a bundle."""
        return cls(manifest.preprocessing, manifest.config, variant.backend, manifest.model.prefix)

    def __call__(self, index: int, source: Source) -> Iterator[Prepared]:
        """The frames of one input. A frame that cannot be prepared carries its error and ends the input."""
        name, frame, size = describe(source), 0, (0, 0)
        frames = decode(source, max_pixels=self._image.max_pixels)
        try:
            while (image := next(frames, None)) is not None:
                size = image.size
                yield Prepared(index, frame, name, size, self._patches(image, name))
                frame, size = frame + 1, (0, 0)
        except ImageError as error:
            yield Prepared(index, frame, name, size, error=error)

    def _patches(self, image: Image.Image, name: str) -> Patches:
        fit = plan_fit(
            (image.height, image.width),
            patch_size=self._model.patch_size,
            tokens=self._tokens,
            policy=self._image.fit,
            oversize=self._image.oversize,
            search=self._model.search,
            name=name,
        )
        pixels = apply_fit(image, fit, resample=self._model.resample, background=self._background)
        return patchify(pixels, self._model.patch_size)
