"""A directory of files, or a repository on the hub that becomes one: what wrote it decides who reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint, Original
from naflex_deploy.compiler.checkpoints.families.reader import read_tower
from naflex_deploy.compiler.checkpoints.families.registry import family_of, refuse_others, wanted_of
from naflex_deploy.compiler.checkpoints.files.choice import CONFIG, choose_local
from naflex_deploy.compiler.checkpoints.files.hub import download
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.compiler.checkpoints.hf import reader as hf
from naflex_deploy.compiler.checkpoints.timm import reader as timm


def read_directory(path: Path, source: str | None = None, lora: Path | None = None) -> Checkpoint:
    """Read what transformers' ``save_pretrained`` or timm's ``save_for_hf`` wrote, and merge an adapter into it.

    Raises:
        CheckpointError: A file is missing or unreadable, or the model is no NaFlex model.
    """
    source = source or str(path)
    config = load_json(path / CONFIG, source)
    by_timm = "architecture" in config and "model_type" not in config
    family = family_of(config)
    refuse_others(config, source)
    if family:
        checkpoint = read_tower(family, config, path, source, lora)
    else:
        checkpoint = (timm.read_saved if by_timm else hf.read_directory)(path, source, lora)
    original = Original("timm" if by_timm else "transformers", path, lora=lora)
    return replace(checkpoint, original=original, left_out=choose_local(path, source, wanted_of(config)).left_out)


def read_hub(name: str, lora: Path | None = None) -> Checkpoint:
    """Download ``ORG/NAME[@revision]`` from the hub, or take it from the local cache, and read it.

    Raises:
        CheckpointError: The hub cannot be reached, or has no such model.
    """
    return read_directory(download(name, wanted_of=wanted_of), f"hf:{name}", lora)
