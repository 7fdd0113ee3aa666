"""Files of a checkpoint: JSON and safetensors, never pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from naflex_deploy.core.errors import CheckpointError, MissingExtraError, NoCheckpointError


def load_json(path: Path, source: str, *, required: bool = True) -> dict[str, Any]:
    """The object in a JSON file; an empty one where the file is missing and not required.

    Raises:
        NoCheckpointError: It is missing.
        CheckpointError: It is unreadable, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise NoCheckpointError(
            f"{source}: no {path.name} there", hint="give a directory as save_pretrained or save_for_hf writes it"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source}: {path.name} is unreadable: {error}", hint="save or download it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{source}: {path.name}: expected an object, found {type(content).__name__}",
            hint="save or download it again",
        )
    return content


def load_safetensors(path: Path, source: str) -> dict[str, Tensor]:
    """All tensors of one safetensors file.

    Raises:
        NoCheckpointError: The path is not there.
        CheckpointError: It is damaged, or of another format.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise MissingExtraError("safetensors", "build") from None
    if not path.exists():
        raise NoCheckpointError(f"{source}: no file at '{path}'", hint="give a *.safetensors file")
    if path.suffix != ".safetensors":
        pickle = ", a pickle, which can run code when it is read" if path.suffix in (".bin", ".pt", ".pth") else ""
        raise CheckpointError(
            f"{source}: expected *.safetensors, found only {path.name}{pickle}",
            hint="load it where you trust it, and save it as safetensors",
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: {path.name} is damaged: {error}", hint="download it again") from None
