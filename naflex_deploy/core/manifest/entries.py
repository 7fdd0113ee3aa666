"""The parts of a manifest: the model, its engines, its heads and its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from naflex_deploy.core.files import sha256
from naflex_deploy.core.manifest.values import (
    BundlePath,
    Digest,
    GraphPath,
    OutputName,
    Shape,
    VariantBudgets,
    VariantName,
    graph,
    unique,
)
from naflex_deploy.core.pack import Role

Scores = Literal["softmax", "sigmoid", "raw"]

DType = Literal["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32"]

Sizes = dict[str, PositiveInt]
"""Value of each symbol in an engine's shapes: ``tokens``, ``images``, ``rows``, ``row_tokens``."""


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Model(Entry):
    """The source of the weights, and the architecture that they belong to.

    Attributes:
        family: Kind of the larger model whose image tower this is; empty where it stands alone.
        tower: How that model takes what the tower gives: the options of its projector.
    """

    source: str
    digest: str
    architecture: dict[str, Any]
    parameters: NonNegativeInt
    prefix: Annotated[int, Field(ge=0, le=4096)] = 0
    family: str = ""
    tower: dict[str, Any] = {}


class InputSpec(Entry):
    """One engine input. Dimensions are sizes or symbols: ``tokens``, ``images``, ``images+1``."""

    role: Role
    dtype: DType
    shape: Shape


class OutputSpec(Entry):
    """One engine output, named as in the profile. Its rows are ``tokens``, ``images``, or, of blocks of s×s tokens,
    ``tokens/s²``; its last dimension is a size."""

    name: OutputName
    dtype: DType
    shape: Shape

    @model_validator(mode="after")
    def _has_width(self) -> Self:
        if isinstance(self.shape[-1], str):
            raise ValueError(f"expected a size as the last dimension, found '{self.shape[-1]}'")
        if "/" in str(self.shape[0]) and not re.fullmatch(r"tokens/[1-9]\d{0,3}", str(self.shape[0])):
            raise ValueError(f"expected rows of blocks such as 'tokens/4', found '{self.shape[0]}'")
        return self

    @property
    def tokens_per_row(self) -> int:
        """1 for a row per token, s² for a row per block of s×s, 0 for a row per image."""
        symbol, _, block = str(self.shape[0]).partition("/")
        return int(block or 1) if symbol == "tokens" else 0

    def rows(self, tokens: int, images: int) -> int:
        """Rows of a pack of so many tokens and images; a last block that is not whole counts."""
        return -(-tokens // self.tokens_per_row) if self.tokens_per_row else images


class Executed(Entry):
    """The machine on which a figure was measured."""

    cpu: str
    system: str
    runtime: str
    gpu: str = ""


class Gate(Entry):
    """Result of a variant on the golden packs.

    Attributes:
        figures: Minimum and mean cosines, agreement of decisions, and accuracy next to the reference's, by name.
    """

    status: Literal["passed", "failed", "unmeasured"] = "unmeasured"
    min_cosine: float | None = None
    max_error: float | None = Field(default=None, description="max |Δ| over max |reference|")
    figures: dict[str, float] = {}
    executed: Executed | None = None
    reason: str = ""


class Variant(Entry):
    """One engine for one target.

    Attributes:
        name: Directory under ``variants/``.
        backend: Name of the backend that runs it.
        target: Hardware it was built for: ``cpu``, ``sm86+sm89``, …
        model: Path of the engine or graph, relative to the bundle.
        shares: Paths, relative to the bundle, of the files outside its directory that it reads.
        budgets: Token budgets of its packs, ascending.
        profiles: Values of the symbols in its shapes, one entry for each set of fixed shapes; empty where it accepts
            any shape.
        passes: Passes applied to the portable graph, in order.
        versions: Versions of the tools that built it.
        build: Figures recorded during the build.
        executed_precisions: Number of operators that the engine runs in each precision, by its name; empty where that
            is not known.
    """

    name: VariantName
    backend: str
    target: str
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"]
    model: BundlePath
    shares: list[BundlePath] = []
    budgets: VariantBudgets
    profiles: list[Sizes] = []
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    passes: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    build: dict[str, Any] = {}
    gate: Gate = Gate()
    executed_precisions: dict[str, int] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend.startswith(("onnxruntime", "openvino")):
            graph(self.model)
        unique("inputs", [spec.role for spec in self.inputs])
        unique("outputs", [spec.name for spec in self.outputs])
        return self


class Head(Entry):
    """How logits become names and scores.

    Attributes:
        labels: Name of each class.
        scores: ``softmax`` where the classes exclude one another, ``sigmoid`` where each is decided on its own,
            ``raw`` where the outputs are values themselves, as those of a regression.
        thresholds: Minimum score at which each class is reported; empty where there is no minimum.
    """

    labels: list[str]
    scores: Scores = "softmax"
    thresholds: list[FiniteFloat] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.thresholds) not in (0, len(self.labels)):
            raise ValueError(f"expected {len(self.labels)} thresholds, one a label, found {len(self.thresholds)}")
        return self


class Tokenization(Entry):
    """How texts become rows of token ids: all of one length, padded with one token on one side.

    Attributes:
        mask: The text tower leaves padding out of attention.
    """

    length: Annotated[int, Field(ge=1, le=65_536)]
    pad_token: str
    side: Literal["left", "right"]
    mask: bool = False


class TextTower(Entry):
    """The text tower, which maps texts to vectors that can be compared with the image vectors.

    Attributes:
        model, tokenizer: Paths of the graph and the tokenizer, relative to the bundle.
        files: Paths of these two and of every file that they read.
        tokens: How texts are tokenized.
        scale, bias: Terms of ``scale · cos(image, text) + bias``, the logit that an image and a text match.
    """

    model: GraphPath
    tokenizer: BundlePath
    files: list[BundlePath]
    tokens: Tokenization
    scale: FiniteFloat
    bias: FiniteFloat


class Witness(Entry):
    """How the portable graph compared with the original library's own model and preprocessing, when it was built.

    Attributes:
        reason: Why it was skipped, or what differed.
        original: Class and library that it was compared with.
        errors: max |Δ| over max |original| of each output.
        grids: (rows, columns) of patches of the images.
    """

    status: Literal["passed", "failed", "skipped"]
    reason: str = ""
    original: str = ""
    errors: dict[str, float] = {}
    grids: list[tuple[int, int]] = []


class FileEntry(Entry):
    sha256: Digest
    size: NonNegativeInt

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Digest and size of one file."""
        return cls(sha256=sha256(path), size=path.stat().st_size)

    @classmethod
    def below(cls, bundle: Path, folder: str = "") -> dict[str, FileEntry]:
        """The entry of every file in a bundle, or in one of its folders, by path relative to the bundle."""
        return {
            path.relative_to(bundle).as_posix(): cls.of(path)
            for path in sorted((bundle / folder).rglob("*"))
            if path.is_file()
        }
