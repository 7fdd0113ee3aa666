"""The tensors of a model: of the files that make it, under names without a wrapper's, an adapter merged into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from naflex_deploy.compiler.checkpoints.files.choice import INDEX, choose_local, every
from naflex_deploy.compiler.checkpoints.files.load import load_safetensors
from naflex_deploy.compiler.checkpoints.lora import merge
from naflex_deploy.compiler.checkpoints.tensors import bare_name
from naflex_deploy.core.errors import CheckpointError


def load_weights(
    path: Path, source: str, lora: Path | None = None, wanted: Callable[[str], bool] = every
) -> dict[str, Tensor]:
    """The tensors of a file, or of the model in a directory, an adapter merged into them if there is one.

    Args:
        path: Of the file or directory.
        source: For messages.
        lora: Directory of the adapter.
        wanted: Whether a tensor of that name is read; files of the directory without any are not opened.

    Raises:
        CheckpointError: A file is missing or damaged, or the adapter does not belong to the model.
    """
    tensors = unwrapped(
        _load_directory(path, source, wanted) if path.is_dir() else load_safetensors(path, source), source
    )
    return tensors if lora is None else merge(tensors, lora)


def unwrapped(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors by their names in the model itself, whatever wrapped it when it was saved.

    Raises:
        CheckpointError: Two tensors have the same name then, as where a file holds the model and its averaged copy.
    """
    plain: dict[str, str] = {}
    for name in tensors:
        bare = bare_name(name)
        other = plain.setdefault(bare, name)
        if other != name:
            raise CheckpointError(
                f"{source}: '{other}' and '{name}' both stand for the tensor '{bare}': the file holds the model twice",
                hint="save the one that you mean alone",
            )
    return {name: tensors[wrapped] for name, wrapped in plain.items()}


def _load_directory(directory: Path, source: str, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    files = choose_local(directory, source, wanted)
    tensors: dict[str, Tensor] = {}
    found_in: dict[str, str] = {}
    for file in files.weights:
        for name, tensor in load_safetensors(directory / file, source, wanted).items():
            if name in tensors:
                raise CheckpointError(
                    f"{source}: tensor '{name}' is in {found_in[name]} and in {file}", hint="download it again"
                )
            tensors[name], found_in[name] = tensor, file
    for name, file in files.placed.items():
        if found_in.get(name) != file:
            where = f"found it in {found_in[name]}" if name in found_in else "found it nowhere"
            raise CheckpointError(
                f"{source}: {INDEX} says that tensor '{name}' is in {file}, {where}",
                hint="the index and the shards belong to different saves: download it again",
            )
    return tensors
