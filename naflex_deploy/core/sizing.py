"""The rules by which the image processors of vision-language models choose a size; part of the manifest.

Each is the rule of one family with its limits. `naflex_deploy.runtime.images.sizing` carries them out. A *block* is
what one token of the language model covers: ``merge`` patches a side.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class SmartResize(_Rule):
    """Both sides are rounded to the nearest multiple of a block, and scaled if the image leaves a range of pixels.

    This is ``smart_resize`` of Qwen2-VL, which Qwen3-VL, Qwen3.5, PaddleOCR-VL, Cosmos3-Edge, VideoLLaMA3 and LFM2-VL
    share. They differ in what they do with a side that is shorter than a block.

    Attributes:
        min_pixels: Fewest pixels of the resized image.
        max_pixels: Most pixels of the resized image. A side that is held at one block may leave it above.
        short: ``keep``: rounded like any other, as Qwen3-VL does; ``sides``: the image is first scaled so that its
            height, and then its width, is a block, as PaddleOCR-VL does; ``scale``: the same in one step, cut to
            integers, as Cosmos3-Edge does; ``block``: the side alone becomes a block, as LFM2-VL does.
        aspect: Largest ratio of the longer side to the shorter one; ``None`` where there is no limit.
    """

    rule: Literal["smart-resize"] = "smart-resize"
    min_pixels: PositiveInt
    max_pixels: PositiveInt
    short: Literal["keep", "sides", "scale", "block"] = "keep"
    aspect: PositiveInt | None = 200


class SmartTiles(_Rule):
    """A small image is resized as a whole; a large one is cut into square tiles, and its thumbnail comes last.

    This is the rule of LFM2-VL. The tiles cover the image, which is stretched to a grid of them.

    Attributes:
        whole: The size of a small image, and of the thumbnail of a large one.
        large: An image is large if it has more than this many pixels once its sides are rounded to blocks.
        tile: Side of a tile in pixels.
        min_tiles, max_tiles: Range of the number of tiles.
    """

    rule: Literal["smart-tiles"] = "smart-tiles"
    whole: SmartResize
    large: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    tile: PositiveInt
    min_tiles: PositiveInt
    max_tiles: PositiveInt

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles = {self.min_tiles} exceeds max_tiles = {self.max_tiles}")
        return self


class ShrinkAndPad(_Rule):
    """An image is shrunk to a number of patches and never enlarged, and padded to whole blocks at the right and bottom.

    This is ``navit_resize`` of Kimi. It counts whole patches before padding, so the grid may exceed the limit.

    Attributes:
        max_patches: Limit of patches of the image.
        max_side: Limit of patches of each side.
    """

    rule: Literal["shrink-and-pad"] = "shrink-and-pad"
    max_patches: PositiveInt
    max_side: PositiveInt


class FillOwnCount(_Rule):
    """An image fills as many patches as it has whole ones, brought into a range.

    This is the rule of Phi-4-reasoning-vision: SigLIP2's search, whose limit is the image's own number of patches.

    Attributes:
        min_patches, max_patches: Range of that number.
    """

    rule: Literal["fill-own-count"] = "fill-own-count"
    min_patches: PositiveInt
    max_patches: PositiveInt


class RoundUp(_Rule):
    """Sides are rounded up to whole blocks, after the image is scaled into a range of patches if it leaves it.

    This is the rule of Isaac.

    Attributes:
        min_patches: Fewest patches; ``None`` where small images are left small.
        max_patches: Most patches.
    """

    rule: Literal["round-up"] = "round-up"
    min_patches: PositiveInt | None = None
    max_patches: PositiveInt


Sizing = Annotated[SmartResize | SmartTiles | ShrinkAndPad | FillOwnCount | RoundUp, Field(discriminator="rule")]
