"""A profile says how images become tokens and which packs engines are built for. Users write it in TOML."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.profile.errors import explain
from naflex_deploy.core.profile.inputs import (
    DicomSection,
    ImageSection,
    LimitsSection,
    RosSection,
    Section,
    VideoSection,
    VolumeSection,
)
from naflex_deploy.core.profile.values import (
    Backend,
    Budgets,
    ByteCount,
    Output,
    ProfileName,
    Score,
    Target,
    once,
)

__all__ = [
    "SCHEMA",
    "DicomSection",
    "ImageSection",
    "LimitsSection",
    "Profile",
    "RosSection",
    "VideoSection",
    "VolumeSection",
]

SCHEMA = 1
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "fp8"]
Method = Literal["minmax", "percentile", "entropy", "mse"]


class PackingSection(Section):
    """Limits of a pack.

    Attributes:
        budgets: Numbers of tokens, prefix tokens included, that packs hold; each pack takes the smallest that fits.
        max_images: Maximum number of images per pack.
    """

    budgets: Budgets = [256, 1024, 4096]
    max_images: PositiveInt = 64


class BackendSection(Section):
    """What differs for one backend.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
        max_images: Takes the place of ``packing.max_images``.
    """

    budgets: Budgets | None = None
    max_images: PositiveInt | None = None


class OnnxRuntimeSection(BackendSection):
    """What differs for ONNX Runtime on a CPU.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
        max_images: Takes the place of ``packing.max_images``.
    """


class OnnxRuntimeCudaSection(BackendSection):
    """What differs for ONNX Runtime on a GPU.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
        max_images: Takes the place of ``packing.max_images``.
    """


class OpenVinoSection(BackendSection):
    """What differs for OpenVINO.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
        max_images: Takes the place of ``packing.max_images``.
    """


class TensorRTSection(BackendSection):
    """What differs for TensorRT and TensorRT-RTX.

    Attributes:
        budgets: Take the place of ``packing.budgets``.
        max_images: Takes the place of ``packing.max_images``.
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
    onnxruntime_cuda: OnnxRuntimeCudaSection = OnnxRuntimeCudaSection()
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
        outputs: What an engine returns: ``pooled``, ``tokens``, ``tokens:-K``, ``tokens:-K:norm``, ``logits``; of a
            vision-language model also ``vlm`` and ``deepstack:K``.
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
    limits: LimitsSection = LimitsSection()
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
        return tuple(self._section(backend).budgets or self.packing.budgets)

    def max_images(self, backend: str) -> int:
        """Maximum number of images in a pack of a backend's engine."""
        return self._section(backend).max_images or self.packing.max_images

    def _section(self, backend: str) -> BackendSection:
        section: BackendSection = getattr(self.engine, FOLDERS[backend])
        return section

    def image_tokens(self, backend: str, prefix: int = 0) -> int:
        """Maximum number of patches of one image: ``image.tokens``, or what the largest pack can hold.

        Args:
            prefix: Number of prefix tokens of the model, which also take up room in the pack.
        """
        largest = self.budgets(backend)[-1] - prefix
        return largest if self.image.tokens == "auto" else min(self.image.tokens, largest)
