"""The sections of a profile that say how inputs are read: images, clips, DICOM, volumes and recordings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from naflex_deploy.core.profile.values import (
    ByteCount,
    Range,
    Window,
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class ImageSection(Section):
    """How one image becomes tokens.

    Attributes:
        tokens: Maximum number of patches per image, or per tile; ``auto`` allows what the largest pack holds.
        fit: ``fill`` scales an image up or down to use all tokens, ``shrink-only`` never enlarges it, ``pad-to-patch``
            never resizes it; ``tiles`` is ``shrink-only`` that cuts larger images into tiles; ``model`` does what the
            image processor of the checkpoint does, within ``tokens``, and ``fill`` where that fills a number of tokens.
        oversize: ``shrink`` scales an image above the limit down, ``tiles`` cuts it into tiles, ``error`` refuses it
            (only where ``fit`` is ``pad-to-patch``).
        multiple: Both sides of a patch grid are multiples of this: 2 for a decoder that merges 2x2 tokens. A checkpoint
            that merges them itself asks for this by itself.
        dpi: Pixels per inch at which pages are rendered; tiles are cut at this resolution at most.
        overlap: Number of patches by which neighbouring tiles overlap.
        max_tiles: Maximum number of tiles per page.
        max_pixels: Maximum number of pixels of a decoded image.
        pixel_aspect: ``file`` brings pixels that the file states not to be square to squares; ``square`` takes all
            pixels for squares.
        frames: Of an animation (GIF, WebP, PNG, AVIF) the ``first`` picture or ``all``, with their times.
        icc: Whether pictures with a colour profile are brought to sRGB. Off, as the models were trained without.
        range: What becomes black and white where values have more than 8 bits or are floating-point numbers:
            ``file`` what the file states, else all of 16 bits; ``full`` all bits that are stored; ``frame`` the least
            and the greatest value of each frame; ``[low, high]`` these two values.
        decode: ``exact`` decodes every pixel; ``scaled`` decodes a JPEG at a half, a quarter or an eighth where the fit
            shrinks it by a quarter more than that, which takes about half the time and changes vectors a little. Other
            formats, CMYK, and pictures whose colour profile is applied are decoded in full.
    """

    tokens: PositiveInt | Literal["auto"] = 256
    fit: Literal["fill", "shrink-only", "pad-to-patch", "tiles", "model"] = "fill"
    oversize: Literal["error", "shrink", "tiles"] = "shrink"
    multiple: PositiveInt = 1
    dpi: PositiveInt = 150
    overlap: NonNegativeInt = 2
    max_tiles: PositiveInt = 64
    max_pixels: PositiveInt = 120_000_000
    pixel_aspect: Literal["file", "square"] = "file"
    frames: Literal["first", "all"] = "first"
    icc: bool = False
    range: Range = "file"
    decode: Literal["exact", "scaled"] = "exact"

    @model_validator(mode="after")
    def _one_block_fits(self) -> Self:
        if isinstance(self.tokens, int) and self.tokens < self.multiple**2:
            raise ValueError(f"tokens = {self.tokens} does not hold one block of {self.multiple}x{self.multiple}")
        return self

    @model_validator(mode="after")
    def _model_sizes_alone(self) -> Self:
        if self.fit == "model" and self.oversize != "shrink":
            raise ValueError(f'oversize = "{self.oversize}" has no effect with fit = "model", expected "shrink"')
        return self

    @property
    def tiled(self) -> bool:
        """Whether an image above the limit is cut into tiles."""
        return "tiles" in (self.fit, self.oversize)


class VideoSection(Section):
    """Which frames of a clip are embedded.

    Attributes:
        frames: ``rate`` takes frames at a fixed rate, ``scenes`` one frame per scene; ``even`` spreads as many as the
            rate gives evenly from the first frame to the last, as Qwen3-VL does. A model that takes frames in pairs
            takes those of ``even`` so.
        rate: Frames per second.
        min_frames: Minimum number of frames with ``even``, as far as the clip has them.
        max_frames: Maximum number of frames with ``even``.
        scene: How much has to change to start a new scene, on FFmpeg's scale from 0 to 1.
    """

    frames: Literal["rate", "scenes", "even"] = "rate"
    rate: Annotated[float, Field(gt=0, le=1000)] = 1.0
    min_frames: PositiveInt = 4
    max_frames: PositiveInt = 768
    scene: Annotated[float, Field(gt=0, lt=1)] = 0.3


class DicomSection(Section):
    """How slices of DICOM files are windowed.

    Attributes:
        window: ``file`` applies the first window or table of the file, else the range of its values; ``lung``,
            ``soft`` and ``bone`` are windows for CT; ``[centre, width]`` is one for all, in the units of the modality.
    """

    window: Window = "file"


class VolumeSection(Section):
    """Which slices of a volume (NIfTI) are embedded.

    Attributes:
        axis: Direction in the body along which slices follow each other: ``axial`` from foot to head, ``coronal``
            from back to front, ``sagittal`` from left to right.
        step: Every n-th slice, beginning with the first.
    """

    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    step: PositiveInt = 1


class RosSection(Section):
    """Which pictures of a recording of a robot or a car (MCAP, ROS bags) are embedded.

    Attributes:
        topics: Names of topics of images; all of them where none is named.
        rate: Pictures per second of each topic; all where it is 0.
    """

    topics: list[str] = []
    rate: Annotated[float, Field(ge=0, le=1000)] = 0.0


class LimitsSection(Section):
    """What one input may cost. These limits do not change what is embedded, only what is refused.

    Attributes:
        seconds: Time for each page, picture or frame whose reader can be ended: all but JPEG, PNG and WebP, for which
            ``image.max_pixels`` is the limit.
        memory: Maximum memory of such a reader: a number of bytes, or text such as ``1GiB``.
        member: Maximum size of a member of a tar shard, or of a row of a table, in bytes.
        frames: Maximum number of pages, slices or frames of one input.
    """

    seconds: Annotated[float, Field(gt=0)] = 60.0
    memory: ByteCount = 1 << 30
    member: ByteCount = 64 << 20
    frames: PositiveInt = 100_000
