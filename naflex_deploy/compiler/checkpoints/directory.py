"""A directory of files, or a repository on the hub that becomes one: what wrote it decides who reads it."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.compiler.checkpoints import hf
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.files import load_json
from naflex_deploy.compiler.checkpoints.timm import reader as timm
from naflex_deploy.core.errors import MissingExtraError, NoCheckpointError


def read_directory(path: Path, source: str | None = None, lora: Path | None = None) -> Checkpoint:
    """Read what transformers' ``save_pretrained`` or timm's ``save_for_hf`` wrote, and merge an adapter into it.

    Raises:
        CheckpointError: A file is missing or unreadable, or the model is no NaFlex model.
    """
    source = source or str(path)
    config = load_json(path / "config.json", source)
    if "architecture" in config and "model_type" not in config:
        return timm.read_saved(path, source, lora)
    return hf.read_directory(path, source, lora)


def read_hub(name: str, lora: Path | None = None) -> Checkpoint:
    """Download ``ORG/NAME[@revision]`` from the hub, or take it from the local cache, and read it.

    Raises:
        CheckpointError: The hub cannot be reached, or has no such model.
    """
    return read_directory(download(name), f"hf:{name}", lora)


def download(name: str) -> Path:
    """A directory with the JSON and safetensors files of ``ORG/NAME[@revision]``.

    Raises:
        CheckpointError: The hub cannot be reached, or has no such model.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "build") from None
    repository, _, revision = name.partition("@")
    try:
        files = ["*.json", "*.safetensors"]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise NoCheckpointError(
            f"hf:{name} could not be downloaded: {type(error).__name__}: {reason}",
            hint="check the name, the network and HF_TOKEN, or download it elsewhere and give the directory",
        ) from None
