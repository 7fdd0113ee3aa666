"""The manifest of a bundle: everything the runtime must know before it touches an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from naflex_deploy.core.errors import BundleError, IncompatibleError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.migrate import upgrade
from naflex_deploy.core.pack import Role
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile

SCHEMA = 3
FILE_NAME = "manifest.json"

Scores = Literal["softmax", "sigmoid", "raw"]

Sizes = dict[str, int]
"""Value of each symbol in an engine's shapes: ``tokens``, ``images``, ``rows``, ``row_tokens``."""


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Entry):
    """The source of the weights, and the architecture that they belong to.

    Attributes:
        family: Kind of the larger model whose image tower this is; empty where it stands alone.
        tower: How that model takes what the tower gives.
    """

    source: str
    digest: str
    architecture: dict[str, Any]
    parameters: int
    prefix: int = 0
    family: str = ""
    tower: dict[str, Any] = {}


class InputSpec(Entry):
    """One engine input. Dimensions are sizes or symbols: ``tokens``, ``images``, ``images+1``."""

    role: Role
    dtype: str
    shape: list[int | str]


class OutputSpec(Entry):
    """One engine output, named as in the profile."""

    name: str
    dtype: str
    shape: list[int | str]


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

    name: str
    backend: str
    target: str
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"]
    model: str
    shares: list[str] = []
    budgets: list[int]
    profiles: list[Sizes] = []
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    passes: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    build: dict[str, Any] = {}
    gate: Gate = Gate()
    executed_precisions: dict[str, int] = {}


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
    thresholds: list[float] = []


class Tokenization(Entry):
    """How texts become rows of token ids: all of one length, padded with one token on one side.

    Attributes:
        mask: The text tower leaves padding out of attention.
    """

    length: int
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

    model: str
    tokenizer: str
    files: list[str]
    tokens: Tokenization
    scale: float
    bias: float


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
    sha256: str
    size: int

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


class Manifest(Entry):
    """The content of a bundle's ``manifest.json``.

    Attributes:
        preprocessing_origins: Where each value of ``preprocessing`` was found.
        witness: How the graph compared with the original model; ``None`` in bundles of earlier versions.
        digest: Digest of the manifest without this key; empty where it was not computed.
        head: How logits are read; ``None`` where the model has neither a classifier nor labels.
        text: The text tower; ``None`` where the bundle was built without it.
        config: The resolved profile.
        origins: Origin of each value of ``config``, by dotted key.
        files: Every file of the bundle except the manifest and ``reports/``, by relative path.
    """

    schema_: int = Field(SCHEMA, alias="schema")
    tool: str
    created: str
    model: Model
    preprocessing: Preprocessing
    preprocessing_origins: dict[str, str] = {}
    witness: Witness | None = None
    head: Head | None = None
    text: TextTower | None = None
    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    variants: list[Variant]
    files: dict[str, FileEntry]
    config: Profile
    origins: dict[str, str] = {}
    digest: str = ""

    def variant(self, name: str) -> Variant:
        """The variant with this name. Raises a `KeyError` where there is none."""
        return {variant.name: variant for variant in self.variants}[name]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @classmethod
    def read(cls, bundle: Path) -> Manifest:
        """Read and check the manifest of a bundle, in this schema or an older one.

        Raises:
            BundleError: The manifest is missing or damaged.
            IncompatibleError: A newer version of the tool wrote it.
        """
        path = bundle / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except NotADirectoryError:
            raise BundleError(
                f"{bundle} is not a bundle: expected a directory, found a file",
                hint="give a directory that `naflex-deploy build` made",
            ) from None
        except FileNotFoundError:
            found = "a directory without one" if bundle.is_dir() else "no such directory"
            raise BundleError(
                f"{bundle} is not a bundle: expected {FILE_NAME}, found {found}",
                hint="build one with `naflex-deploy build`",
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path} is unreadable: {error}", hint="copy or build the bundle again") from None
        schema = content.get("schema") if isinstance(content, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise IncompatibleError(
                f"{bundle} has manifest schema {schema}, expected at most {SCHEMA} (written by {content.get('tool')})",
                hint="upgrade: pip install --upgrade naflex-deploy",
            )
        try:
            if isinstance(schema, int):
                content = upgrade(content, SCHEMA)
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"{path}: {where}: {first['msg']}", hint="the file was edited or damaged; build the bundle again"
            ) from None
        except ValueError as error:
            raise BundleError(
                f"{path}: {error}", hint="the file was edited or damaged; build the bundle again"
            ) from None
