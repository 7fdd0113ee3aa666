"""The manifest of a bundle: everything the runtime must know before it touches an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from naflex_deploy.core.errors import BundleError, IncompatibleError
from naflex_deploy.core.manifest.entries import (
    Entry,
    Executed,
    FileEntry,
    Gate,
    Head,
    InputSpec,
    Model,
    OutputSpec,
    Scores,
    Sizes,
    TextTower,
    Tokenization,
    Variant,
    Witness,
)
from naflex_deploy.core.manifest.migrate import upgrade
from naflex_deploy.core.manifest.reading import DIGEST, digest_of, read_content, sealed
from naflex_deploy.core.manifest.values import BundlePath, unique
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "Executed",
    "FileEntry",
    "Gate",
    "Head",
    "InputSpec",
    "Manifest",
    "Model",
    "OutputSpec",
    "Scores",
    "Sizes",
    "TextTower",
    "Tokenization",
    "Variant",
    "Witness",
]

SCHEMA = 4
FILE_NAME = "manifest.json"
EDITED = "the file was edited or damaged; build the bundle again"
MOST_PACK_BYTES = 2**32
"""Pixels of the largest pack, which the runtime allocates."""


class Manifest(Entry):
    """The content of a bundle's ``manifest.json``.

    Attributes:
        preprocessing_origins: Where each value of ``preprocessing`` was found.
        witness: How the graph compared with the original model; ``None`` in bundles of earlier versions.
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
    files: dict[BundlePath, FileEntry]
    config: Profile
    origins: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unique("variants", [variant.name for variant in self.variants])
        unique("outputs", [spec.name for spec in self.outputs])
        for variant in self.variants:
            pixels = variant.budgets[-1] * self.preprocessing.patch_values
            if pixels > MOST_PACK_BYTES:
                raise ValueError(f"a pack of '{variant.name}' takes {pixels} bytes, expected at most {MOST_PACK_BYTES}")
        for spec in self.outputs if self.head else ():
            if spec.name == "logits" and self.head and len(self.head.labels) != spec.shape[-1]:
                raise ValueError(
                    f"expected a label for each of {spec.shape[-1]} classes, found {len(self.head.labels)}"
                )
        return self

    def variant(self, name: str) -> Variant:
        """The variant with this name. Raises a `KeyError` where there is none."""
        return {variant.name: variant for variant in self.variants}[name]

    def to_json(self) -> str:
        """Its text, with a digest of itself, so that `read` notices what was changed since."""
        return json.dumps(sealed(json.loads(self.model_dump_json(by_alias=True))), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, bundle: Path) -> Manifest:
        """Read and check the manifest of a bundle, in this schema or an older one.

        Raises:
            BundleError: The manifest is missing or damaged.
            IncompatibleError: A newer version of the tool wrote it.
        """
        path = bundle / FILE_NAME
        try:
            content = read_content(path)
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
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is int and schema > SCHEMA:
            raise IncompatibleError(
                f"{bundle} has manifest schema {schema}, expected at most {SCHEMA} (written by {content.get('tool')})",
                hint="upgrade: pip install --upgrade naflex-deploy",
            )
        try:
            if not isinstance(content, dict) or type(schema) is not int:
                raise ValueError(f"schema: expected a whole number, found {str(schema)[:80]!r}")
            return cls.model_validate(_opened(content) if schema == SCHEMA else upgrade(content, SCHEMA))
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
            raise BundleError(f"{path}: {where}{first['msg'].removeprefix('Value error, ')}", hint=EDITED) from None
        except ValueError as error:
            raise BundleError(f"{path}: {error}", hint=EDITED) from None


def _opened(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its digest.

    Raises:
        ValueError: The digest is of something else.
    """
    if content.get(DIGEST) != digest_of(content):
        raise ValueError(f"its content is not what its {DIGEST} was computed from")
    return {key: value for key, value in content.items() if key != DIGEST}
