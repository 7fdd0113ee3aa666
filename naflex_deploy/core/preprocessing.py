"""Preprocessing that a checkpoint fixes, as opposed to what a profile chooses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Triple = tuple[float, float, float]

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocessing(BaseModel):
    """How a model expects its pixels, as its checkpoint says; part of the manifest.

    Attributes:
        patch_size: Side of a patch in pixels, P.
        mean, std: Per-channel normalisation of pixel values between 0 and 1, with every other operation of the
            original on pixels folded into it; both are finite, and std is positive. The graph applies it, so the
            runtime passes raw pixels.
        resample: Filter of the image resize, which antialiases.
        search: Precision of the size search that fills a token budget: ``float64`` as in transformers and timm,
            ``float32`` as in big_vision. The chosen grids can differ where a size is on a boundary.
        channels: 1 where the model expects grey images. The runtime turns every image grey before it is resized, and
            passes it as three equal channels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: PositiveInt
    mean: tuple[_Finite, _Finite, _Finite] = (0.5, 0.5, 0.5)
    std: tuple[_Positive, _Positive, _Positive] = (0.5, 0.5, 0.5)
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    search: Literal["float64", "float32"] = "float64"
    channels: Literal[1, 3] = 3
