"""Preprocessing that a checkpoint fixes, as opposed to what a profile chooses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from naflex_deploy.core.sizing import Sizing, SmartResize

Triple = tuple[float, float, float]

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Level = Annotated[int, Field(ge=0, le=255)]


class Preprocessing(BaseModel):
    """How a model expects its pixels, as its checkpoint says; part of the manifest.

    Attributes:
        patch_size: Side of a patch in pixels, P.
        mean, std: Per-channel normalisation of pixel values between 0 and 1, with every other operation of the
            original on pixels folded into it; both are finite, and std is positive. The graph applies it, so the
            runtime passes raw pixels.
        resample: Filter of the image resize.
        antialias: Whether the filter is as wide as the pixels it makes, which all models but Isaac expect.
        search: Precision of the size search that fills a token budget: ``float64`` as in transformers and timm,
            ``float32`` as in big_vision. The chosen grids can differ where a size is on a boundary.
        channels: 1 where the model expects grey images. The runtime turns every image grey before it is resized, and
            passes it as three equal channels.
        merge: Patches a side that a vision-language model merges into one token: 2 where both sides of every grid are
            even. Patches are given to the graph in raster order whatever the order of the model.
        sizing: How the model's own image processor chooses sizes, which a profile asks for by ``image.fit = "model"``;
            ``None`` where it fills a number of tokens, as SigLIP2's.
        padding: (red, green, blue) of padded pixels, between 0 and 255; ``None`` for the mean, which is neutral.
        frames: Frames of a clip that one patch spans. With 2, a patch has twice the values, those of the first frame
            first, [h·w, 2·P·P·C]; a still is given as two equal frames. A reader that folds the two into one, as it may
            where there are only stills, leaves 1.
        clip: Sizes of the frames of clips, whose limits are of the pixels of all frames of a clip; ``None`` where they
            are sized as stills.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    patch_size: PositiveInt
    mean: tuple[_Finite, _Finite, _Finite] = (0.5, 0.5, 0.5)
    std: tuple[_Positive, _Positive, _Positive] = (0.5, 0.5, 0.5)
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    search: Literal["float64", "float32"] = "float64"
    channels: Literal[1, 3] = 3
    antialias: bool = True
    merge: PositiveInt = 1
    sizing: Sizing | None = None
    padding: tuple[_Level, _Level, _Level] | None = None
    frames: Literal[1, 2] = 1
    clip: SmartResize | None = None

    @property
    def patch_values(self) -> int:
        """Values of a patch that the runtime gives to the engine: grey images are given as three equal channels."""
        return 3 * self.patch_size**2 * self.frames
