"""Which files of a directory make the model, as transformers' ``from_pretrained`` and timm's ``create_model`` choose.

A directory often holds more weights than those of the model: averaged copies (EMA), backups, shards of an earlier save,
the same model in another format. Reading them all would mix them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.core.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, ADAPTER_CONFIG, ADAPTER = "config.json", "adapter_config.json", "adapter_model.safetensors"
PROCESSOR_CONFIG, PREPROCESSOR_CONFIG = "processor_config.json", "preprocessor_config.json"
VIDEO_CONFIG = "video_preprocessor_config.json"
SETTINGS = (CONFIG, PROCESSOR_CONFIG, PREPROCESSOR_CONFIG, VIDEO_CONFIG, ADAPTER_CONFIG)
"""What is read beside the weights, where it is there."""
TEXT_SETTINGS = ("tokenizer.json", "tokenizer_config.json")
"""What is read beside them for texts."""
WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5", ".npz")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
READABLE = (".safetensors", ".safetensors.index.json")
SHARD = re.compile(r".*-(\d{5})-of-(\d{5})\.safetensors")


def every(name: str) -> bool:
    """Want a tensor, whatever its name."""
    return True


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, by their names in the directory.

    Attributes:
        weights: Its safetensors files that hold tensors that are wanted, in the order in which they are read.
        placed: File of each of these tensors as the index says; empty where the model is one file.
        left_out: Other files of weights that are there, which are not the model.
    """

    weights: tuple[str, ...]
    placed: Mapping[str, str]
    left_out: tuple[str, ...]


def choose_files(
    names: Collection[str],
    read_json: Callable[[str], Mapping[str, Any]],
    config: Mapping[str, Any],
    source: str,
    wanted: Callable[[str], bool] = every,
) -> ModelFiles:
    """Choose the files of the model: the one that ``config.json`` names, else ``model.safetensors``, else those that
    the index names, else the only safetensors file.

    Args:
        names: Of all files in the directory.
        read_json: Gives the object in a JSON file of the directory.
        config: Of the model.
        source: For messages.
        wanted: Whether a tensor of that name is to be read. Shards without any may be missing.

    Raises:
        CheckpointError: There is no such file, there are several, or the index does not fit the directory.
    """
    if ADAPTER_CONFIG in names:
        raise CheckpointError(
            f"{source}: {ADAPTER_CONFIG} lies beside {CONFIG}: this directory is an adapter, and transformers would "
            f"load the base model that it names",
            hint="give the base model, and this directory with --lora",
        )
    stated = config.get("transformers_weights")
    if stated is not None and not (isinstance(stated, str) and stated.endswith(READABLE) and _inside(stated)):
        raise CheckpointError(
            f"{source}: {CONFIG}: transformers_weights = {stated!r} is not supported",
            hint="a *.safetensors file, or its index, is",
        )
    chosen = stated or next((name for name in (SINGLE, INDEX) if name in names), None) or _only(names, source)
    placed = _placed(chosen, read_json, names, source) if chosen.endswith(".json") else {}
    used = {*placed.values(), chosen}
    sharded = bool(placed)
    placed = {name: file for name, file in placed.items() if wanted(name)}
    weights = tuple(sorted(set(placed.values()))) if sharded else (chosen,)
    for name in weights:
        if name not in names:
            raise CheckpointError(
                f"{source}: the file {name} is missing, which {chosen if sharded else CONFIG} names",
                hint="the download was interrupted: download it again",
            )
    left_out = sorted(n for n in names if n.endswith((*WEIGHTS, *READABLE)) and n not in used)
    return ModelFiles(weights, placed, tuple(left_out))


def choose_local(directory: Path, source: str, wanted: Callable[[str], bool] = every) -> ModelFiles:
    """The same for a local directory with a ``config.json``."""
    config = load_json(directory / CONFIG, source)
    names = {path.name for path in directory.iterdir() if path.is_file()}
    stated = config.get("transformers_weights")
    if isinstance(stated, str) and _inside(stated) and (directory / stated).is_file():
        names.add(stated)
    return choose_files(names, lambda name: load_json(directory / name, source), config, source, wanted)


def _only(names: Collection[str], source: str) -> str:
    """The one safetensors file, where nothing says which is the model."""
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if not found:
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        what = f"found only {pickles[0]}, a pickle, which can run code when it is read" if pickles else "found none"
        raise CheckpointError(
            f"{source}: expected weights in *.safetensors, {what}",
            hint="load it where you trust it, and save it as safetensors",
        )
    if len(found) > 1:
        raise CheckpointError(
            f"{source}: several files may be the model, and none is called {SINGLE}: {', '.join(found)}",
            hint=f"rename the one that you mean to {SINGLE}; shards need their {INDEX}",
        )
    (name,) = found
    if name == ADAPTER:
        raise CheckpointError(
            f"{source}: {name} is an adapter, expected a model", hint="give the base model, and the adapter with --lora"
        )
    shard = SHARD.fullmatch(name)
    if shard and int(shard[2]) != 1:
        raise CheckpointError(
            f"{source}: {name} is one of {int(shard[2])} shards, and the others and {INDEX} are missing",
            hint="the download was interrupted: download it again",
        )
    return name


def _placed(
    index: str, read_json: Callable[[str], Mapping[str, Any]], names: Collection[str], source: str
) -> dict[str, str]:
    placed = read_json(index).get("weight_map") if index in names else {}
    if not placed or not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(
            f"{source}: {index}: expected a weight_map from tensors to files", hint="save or download it again"
        )
    for name in placed.values():
        if not _inside(name) or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{source}: {index} names '{name}', expected a *.safetensors file of the directory",
                hint="a file outside the directory is never read",
            )
    return dict(placed)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
