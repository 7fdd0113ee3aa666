"""Files of a checkpoint: JSON and safetensors, never pickles."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def load_safetensors(path: Path, source: str, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of one safetensors file; the content of those that are not wanted is not read.

    Raises:
        NoCheckpointError: The path is not there.
        CheckpointError: It is damaged, or of another format.
    """
    try:
        from safetensors import SafetensorError, safe_open
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
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source}: {path.name} is damaged: {error}", hint="download it again") from None
