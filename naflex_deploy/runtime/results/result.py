"""What became of an image; and of a page, from the results of its tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.runtime.images.tiles import stitch

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Result:
    """What became of one image: a photo, a page of a document, a frame of a clip, or a tile of any of them.

    Attributes:
        input: Which of the inputs it came from, from 0.
        frame: Which frame, page or slice of it, from 0.
        name: How messages call the input.
        size: (width, height) of the frame in pixels as decoded, (0, 0) where that failed.
        tile: Which tile of the frame, from 1; 0 for the whole frame, shrunk where there are tiles.
        tiles: Images that became of the frame: 1, or its tiles and the whole.
        box: (left, top, right, bottom) of the image in pixels of the frame; may fall between pixels, and beyond the
            frame where that is padded.
        aspect: Width of a stored pixel over its height: sizes and boxes are in stored pixels.
        dpi: Pixels of the frame per inch, ``None`` where the input does not say.
        time: At which a frame of a clip is shown, in seconds, by the clip's own timestamps; ``None`` elsewhere.
        last: No other frame of the input follows.
        grid_hw: Rows and columns of its patches.
        pack: Number of the pack it ran in, from 0; -1 where it did not run.
        start: Its first token in the pack.
        pack_tokens: Tokens of the pack.
        warnings: What a person should look at before the pixels are trusted.
        outputs: ``pooled`` [D], ``logits`` [classes], ``tokens`` [h, w, D], those asked for. float32.
        error: Why it has no outputs, ``None`` where it has.
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
    pack: int = -1
    start: int = 0
    pack_tokens: int = 0
    warnings: tuple[str, ...] = ()
    outputs: dict[str, Float] = field(default_factory=dict)
    error: NaflexError | None = None


def by_frame(results: Iterable[Result]) -> Iterator[list[Result]]:
    """The results of each frame together, the whole first, as frames are complete."""
    incomplete: dict[tuple[int, int], list[Result]] = {}
    for result in results:
        key = (result.input, result.frame)
        images = incomplete.setdefault(key, [])
        images.append(result)
        if len(images) == result.tiles:
            yield sorted(incomplete.pop(key), key=lambda image: image.tile)


def join(images: Sequence[Result]) -> Result:
    """One result of a frame from those of its images, as `by_frame` gives them.

    Vectors and logits are half those of the whole, half the mean of those of the tiles, however many these are: what
    kind of page it is shows in the whole, whose share a plain mean would shrink as pages grow. Tokens are those of
    the tiles, stitched to one grid at their density. A frame of one image is that image. An image's error is the
    frame's.
    """
    whole, *tiles = images
    error = next((image.error for image in images if image.error), None)
    if error or not tiles:
        return replace(whole, outputs={}, error=error) if error else whole

    def joined(name: str) -> Float:
        if name.startswith("tokens"):
            return stitch([(tile.box, tile.outputs[name]) for tile in tiles])
        mean = np.mean([tile.outputs[name] for tile in tiles], axis=0)
        return np.asarray((whole.outputs[name] + mean) / 2, np.float32)

    return replace(whole, outputs={name: joined(name) for name in whole.outputs})
