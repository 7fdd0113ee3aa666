"""A profile says how images become tokens and which packs engines are built for. Users write it in TOML."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.profile_errors import explain
from naflex_deploy.core.profile_values import (
    Backend,
    Budgets,
    ByteCount,
    Output,
    ProfileName,
    Range,
    Score,
    Target,
    Window,
    once,
)

SCHEMA = 1
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]
Method = Literal["minmax", "percentile", "entropy", "mse"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ImageSection(Section):
    """How one image becomes tokens.

    Attributes:
        tokens: Maximum number of patches per image, or per tile; ``auto`` allows what the largest pack holds.
        fit: ``fill`` scales an image up or down to use all tokens, ``shrink-only`` never enlarges it, ``pad-to-patch``
            never resizes it; ``tiles`` is ``shrink-only`` that cuts larger images into tiles.
        oversize: ``shrink`` scales an image above the limit down, ``tiles`` cuts it into tiles, ``error`` refuses it
            (only where ``fit`` is ``pad-to-patch``).
        multiple: Both sides of a patch grid are multiples of this: 2 for a decoder that merges 2x2 tokens.
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
    """

    tokens: PositiveInt | Literal["auto"] = 256
    fit: Literal["fill", "shrink-only", "pad-to-patch", "tiles"] = "fill"
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

    @model_validator(mode="after")
    def _one_block_fits(self) -> Self:
        if isinstance(self.tokens, int) and self.tokens < self.multiple**2:
            raise ValueError(f"tokens = {self.tokens} does not hold one block of {self.multiple}x{self.multiple}")
        return self

    @property
    def tiled(self) -> bool:
        """Whether an image above the limit is cut into tiles."""
        return "tiles" in (self.fit, self.oversize)


class VideoSection(Section):
    """Which frames of a clip are embedded.

    Attributes:
        frames: ``rate`` takes frames at a fixed rate, ``scenes`` one frame per scene.
        rate: Frames per second.
        scene: How much has to change to start a new scene, on FFmpeg's scale from 0 to 1.
    """

    frames: Literal["rate", "scenes"] = "rate"
    rate: Annotated[float, Field(gt=0, le=1000)] = 1.0
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


class PackingSection(Section):
    """Limits of a pack.

    Attributes:
        budgets: Numbers of tokens, prefix tokens included, that packs hold; each pack takes the smallest that fits.
        max_images: Maximum number of images per pack.
    """

    budgets: Budgets = [256, 1024, 4096]
    max_images: PositiveInt = 64


class OnnxRuntimeSection(Section):
    """What differs for ONNX Runtime on a CPU.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
    """

    budgets: Budgets | None = None


class OpenVinoSection(Section):
    """What differs for OpenVINO.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
    """

    budgets: Budgets | None = None


class TensorRTSection(Section):
    """What differs for TensorRT and TensorRT-RTX.

    Attributes:
        l_buckets: Row lengths in tokens that ``rows`` attention is built for.
        targets: GPU architectures that TensorRT-RTX builds for; all from Ampere on where none is given.
        attention: Form of attention; ``auto`` chooses by the largest budget.
    """

    l_buckets: Budgets = [256, 576, 1024]
    targets: list[Target] = []
    attention: Literal["auto", "segment", "rows", "packed", "plugin"] = "auto"


class EngineSection(Section):
    """Which engine is built. The first backend that is available on the machine is used.

    Attributes:
        backends: Names of backends in order of preference.
        precision: ``auto`` is fp32 on a CPU and the backend's usual choice on a GPU.
        memory_limit: Maximum GPU memory of an engine: a number of bytes, or text such as ``8GiB``.
    """

    backends: Annotated[list[Backend], Field(min_length=1), AfterValidator(once)] = list(FOLDERS)
    precision: Precision = "auto"
    memory_limit: ByteCount | None = None
    onnxruntime: OnnxRuntimeSection = OnnxRuntimeSection()
    openvino: OpenVinoSection = OpenVinoSection()
    tensorrt: TensorRTSection = TensorRTSection()


class HeadSection(Section):
    """How classes are scored.

    Attributes:
        scores: ``softmax``: one of the classes; ``sigmoid``: each by itself; ``raw``: the outputs themselves, as of a
            regression; ``auto``: as the checkpoint says.
        threshold: Minimum score at which a class is reported.
        thresholds: Thresholds of single classes, by name.
    """

    scores: Literal["auto", "softmax", "sigmoid", "raw"] = "auto"
    threshold: Score = 0.0
    thresholds: dict[str, Score] = {}


class GateSection(Section):
    """How close int8 and fp8 engines must stay to the float32 reference, on images held out of calibration.

    Attributes:
        min_cosine: Minimum cosine of the pooled vector of every image.
        min_token_cosine: Minimum cosine of every token.
        min_top1_agreement: Minimum share of images whose best class stays the same.
        max_margin_error: Maximum mean error of logit margins, relative to the mean margin.
        max_accuracy_loss: Maximum loss of accuracy on labelled images, as a share of these images.
    """

    min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.995
    min_token_cosine: Annotated[float, Field(gt=0, le=1)] = 0.97
    min_top1_agreement: Score = 0.98
    max_margin_error: Annotated[float, Field(ge=0)] = 0.05
    max_accuracy_loss: Score = 0.01


class CalibrationSection(Section):
    """How `naflex-deploy calibrate` observes activations.

    Attributes:
        samples: Number of images to observe.
        method: How a range follows from the histogram of an activation.
    """

    samples: PositiveInt = 256
    method: Method = "percentile"


class Profile(Section):
    """A resolved profile. Every field is validated; an unknown key is an error that names its path.

    Attributes:
        schema_: Version of this format.
        name: Lower-case letters, digits, ``.``, ``_`` and ``-``.
        description: One line that ``naflex-deploy profiles`` prints.
        outputs: What an engine returns: ``pooled``, ``tokens``, ``tokens:-K``, ``tokens:-K:norm``, ``logits``.
    """

    schema_: Annotated[int, Field(alias="schema", ge=1, le=SCHEMA)] = SCHEMA
    name: ProfileName
    description: str = ""
    outputs: Annotated[list[Output], Field(min_length=1), AfterValidator(once)] = ["pooled"]
    image: ImageSection = ImageSection()
    video: VideoSection = VideoSection()
    dicom: DicomSection = DicomSection()
    volume: VolumeSection = VolumeSection()
    ros: RosSection = RosSection()
    packing: PackingSection = PackingSection()
    engine: EngineSection = EngineSection()
    head: HeadSection = HeadSection()
    gate: GateSection = GateSection()
    calibration: CalibrationSection = CalibrationSection()

    @model_validator(mode="after")
    def _image_fits_a_pack(self) -> Self:
        for backend in FOLDERS:
            largest = self.budgets(backend)[-1]
            if isinstance(self.image.tokens, int) and self.image.tokens > largest:
                raise ValueError(
                    f"image.tokens = {self.image.tokens} exceeds the largest {backend} budget, {largest}: "
                    "an image must fit into one pack"
                )
        return self

    @model_validator(mode="after")
    def _tiles_exceed_their_overlap(self) -> Self:
        side = math.isqrt(min(self.image_tokens(backend) for backend in FOLDERS))
        if self.image.tiled and self.image.overlap >= side:
            raise ValueError(
                f"image.overlap = {self.image.overlap} leaves nothing of a tile of {side}x{side} patches, "
                f"expected less than {side}"
            )
        return self

    @classmethod
    def parse(cls, values: dict[str, Any], *, source: Callable[[str], str]) -> Profile:
        """Validate a nested mapping as read from TOML.

        Args:
            values: Keys as in the file, ``schema`` included.
            source: Gives the origin of the value at a dotted path, for messages.

        Raises:
            UsageError: A value is invalid; the error gives its path, what is allowed and what was found.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise explain(error, cls, source) from None

    def budgets(self, backend: str) -> tuple[int, ...]:
        """Token budgets of the packs that a backend's engine is built for, ascending."""
        section = getattr(self.engine, backend.replace("-", "_"), None)
        return tuple(getattr(section, "budgets", None) or self.packing.budgets)

    def image_tokens(self, backend: str, prefix: int = 0) -> int:
        """Maximum number of patches of one image: ``image.tokens``, or what the largest pack can hold.

        Args:
            prefix: Number of prefix tokens of the model, which also take up room in the pack.
        """
        largest = self.budgets(backend)[-1] - prefix
        return largest if self.image.tokens == "auto" else min(self.image.tokens, largest)
