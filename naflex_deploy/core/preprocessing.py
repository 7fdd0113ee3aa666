"""How a model wants its pixels: what a checkpoint fixes, as opposed to what a profile chooses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Triple = tuple[float, float, float]


class Preprocessing(BaseModel):
    """Part of a checkpoint, written into the manifest.

    Attributes:
        patch_size: P, pixels a side.
        mean, std: Per-channel normalisation on a scale of 0…1. The graph applies it; the runtime hands over raw
            pixels.
        resample: Filter of the image resize, antialiased.
        search: Arithmetic of the size search that fills a token budget: ``float64`` as transformers and timm
            have it, ``float32`` as big_vision. Grids can differ at a boundary.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch_size: PositiveInt
    mean: Triple = (0.5, 0.5, 0.5)
    std: Annotated[Triple, Field(description="positive")] = (0.5, 0.5, 0.5)
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    search: Literal["float64", "float32"] = "float64"
