"""The witness with the process of the original: environments for it, and our side without an export."""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.text_checkpoint import Text
from naflex_deploy.compiler.witness import process
from naflex_deploy.compiler.witness.compare import by_image, judge, prepared
from naflex_deploy.compiler.witness.process import Answer
from naflex_deploy.compiler.witness.request import TEXTS
from naflex_deploy.core.manifest import Witness
from naflex_deploy.core.pack import Pack, in_blocks
from tests.support import imports
from tests.support.packs import inputs

SHIM = Path(imports.__file__).read_text()
"""A sitecustomize.py for a process of its own."""


@contextmanager
def asked_for_real() -> Iterator[None]:
    """Builds start the process of the original, which no other test does."""
    with patch.object(process, "installed", lambda library: find_spec(library) is not None):
        yield


def ours(checkpoint: Checkpoint, answer: Answer, text: Text | None = None) -> Witness:
    """The outcome with the packed model itself in the place of its exported graph."""
    outputs = ["pooled", "tokens"]
    outputs += [name for name in checkpoint.architecture.outputs if name == "logits" or in_blocks(name)]
    patches = prepared(checkpoint.preprocessing)
    model = checkpoint.model(outputs)
    pack = Pack.of(patches, prefix=checkpoint.architecture.prefix)
    with torch.inference_mode():
        found = by_image(
            {name: values.numpy() for name, values in model(*inputs(model, pack)).items()},
            pack,
            checkpoint.preprocessing.merge,
        )
        if text is not None:
            found["texts"] = text.vectors(TEXTS).numpy()
    return judge(found, answer, [image.grid_hw for image in patches])


def package(folder: Path, name: str, content: str) -> Path:
    """A module on a path of its own, for a process that finds it first."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(content)
    return folder
