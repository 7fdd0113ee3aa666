"""The result of an image, and the result of a page, which is joined from those of its tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.pack import on_grid
from naflex_deploy.runtime.images.tiles import stitch

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one image: a photo, a page of a document, a frame of a clip, or a tile of any of them.

    Attributes:
        input: Index of the input, from 0.
        frame: Index of the frame, page or slice in its input, from 0.
        name: Name of the input in messages.
        size: (width, height) of the frame in pixels as decoded, (0, 0) where decoding failed.
        tile: Number of the tile in its frame, from 1; 0 for the whole frame, which is shrunk where there are tiles.
        tiles: Number of images that were made from the frame: 1, or its tiles plus the whole frame.
        box: (left, top, right, bottom) of the image in pixels of the frame. It may fall between pixels, and extends
            beyond the frame where the frame is padded.
        aspect: Width of a stored pixel over its height: sizes and boxes are in stored pixels.
        dpi: Pixels of the frame per inch, ``None`` where the input does not say.
        time: Time in seconds at which a frame of a clip is shown, by the timestamps of the clip; ``None`` for others.
        last: Whether this is the last frame of the input.
        grid_hw: Rows and columns of patches.
        merge: Patches a side that a language model takes as one token.
        pack: Number of the pack that the image ran in, from 0; -1 if it did not run.
        start: Index of its first token in the pack.
        pack_tokens: Number of tokens in the pack.
        warnings: What a person should look at before the pixels are trusted.
        outputs: The outputs that were asked for, float32: ``pooled`` [D], ``logits`` [classes], ``tokens`` [h, w, D],
            ``vlm`` and ``deepstack:K`` [h/merge, w/merge, width], whose rows one after another are what a language
            model takes.
        error: Why there are no outputs; ``None`` where there are.
    """

    input: int
    frame: int
    name: str
    size: tuple[int, int] = (0, 0)
    tile: int = 0
    tiles: int = 1
    box: tuple[float, float, float, float] = (0, 0, 0, 0)
    aspect: float = 1.0
    dpi: float | None = None
    time: float | None = None
    last: bool = True
    grid_hw: tuple[int, int] = (0, 0)
    merge: int = 1
    pack: int = -1
    start: int = 0
    pack_tokens: int = 0
    warnings: tuple[str, ...] = ()
    outputs: dict[str, Float] = field(default_factory=dict)
    error: NaflexError | None = None

    @property
    def placeholders(self) -> int:
        """Tokens that the image takes in the prompt of a language model."""
        return self.grid_hw[0] * self.grid_hw[1] // self.merge**2


def by_frame(results: Iterable[Result]) -> Iterator[list[Result]]:
    """Group results by frame, the whole frame first. A frame is yielded as soon as all its results are there."""
    incomplete: dict[tuple[int, int], list[Result]] = {}
    for result in results:
        key = (result.input, result.frame)
        images = incomplete.setdefault(key, [])
        images.append(result)
        if len(images) == result.tiles:
            yield sorted(incomplete.pop(key), key=lambda image: image.tile)


def join(images: Sequence[Result]) -> Result:
    """Join the results of a frame's images, as `by_frame` groups them.

    The vector is the mean of two: that of the whole frame, and the mean over its tiles; so are the logits. The kind of
    a page shows in the whole page, whose share in a plain mean would shrink with the number of tiles. The tokens are
    those of the tiles, stitched into one grid. A frame without tiles is returned as it is. If an image has an error, so
    has the frame.
    """
    whole, *tiles = images
    error = next((image.error for image in images if image.error), None)
    if error or not tiles:
        return replace(whole, outputs={}, error=error) if error else whole

    def joined(name: str) -> Float:
        if on_grid(name):
            return stitch([(tile.box, tile.outputs[name]) for tile in tiles])
        mean = np.mean([tile.outputs[name] for tile in tiles], axis=0)
        return np.asarray((whole.outputs[name] + mean) / 2, np.float32)

    return replace(whole, outputs={name: joined(name) for name in whole.outputs})
