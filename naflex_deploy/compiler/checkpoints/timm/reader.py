"""timm NaFlexVit: a registered name with a safetensors file, a file with its config.json, or a module object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.files import load_json
from naflex_deploy.compiler.checkpoints.lora import load_merged
from naflex_deploy.compiler.checkpoints.tensors import Tensors
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES, Registered
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.checkpoints.timm.module import options_of
from naflex_deploy.compiler.checkpoints.timm.weights import timm_weights
from naflex_deploy.core.errors import CheckpointError, NoCheckpointError, nearest
from naflex_deploy.core.preprocessing import Preprocessing

FILTERS = ("bilinear", "bicubic")


def read_timm(rest: str, lora: Path | None = None) -> Checkpoint:
    """Read ``NAME:FILE.safetensors``, or ``FILE.safetensors`` or its directory with a config.json beside it.

    An adapter is merged into it if there is one.

    Raises:
        CheckpointError: The name is not registered, there are no weights, or the two disagree.
    """
    name, separator, file = rest.partition(":")
    if not separator:
        path = Path(rest)
        if path.exists() or path.suffix == ".safetensors":
            return read_saved(path, lora=lora)
        registered_as(rest, "timm")
        raise CheckpointError(
            f"timm:{rest} names an architecture without weights",
            hint=f"give a file, timm:{rest}:FILE.safetensors, or random:{rest} for seeded weights",
        )
    registered = registered_as(name, "timm")
    tensors = Tensors(load_merged(Path(file), f"timm:{rest}", lora), f"timm:{rest}")
    stated = tensors.shape("head.weight")
    options = registered.options | {"num_classes": stated[0] if stated else 0}
    return _convert(options, tensors, _preprocessing(registered, {}, 16, f"timm:{rest}"), f"timm:{rest}")


def read_saved(path: Path, source: str | None = None, lora: Path | None = None) -> Checkpoint:
    """Read what timm's ``save_for_hf`` writes: a safetensors file with config.json beside it.

    Args:
        path: The file, or its directory.
        source: For messages.
        lora: An adapter to merge.

    Raises:
        CheckpointError: A file is missing or unreadable, an option is not supported, or the two disagree.
    """
    source = source or f"timm:{path}"
    config = load_json((path.parent if path.suffix == ".safetensors" else path) / "config.json", source)
    registered = registered_as(str(config.get("architecture", "")), source)
    arguments = config.get("model_args") or {}
    options = registered.options | arguments
    options["num_classes"] = config.get("num_classes", options.get("num_classes", registered.classes))
    pretrained = config.get("pretrained_cfg") or {}
    patch_size = TimmConfig.of(options, source).patch_size
    preprocessing = _preprocessing(registered, pretrained, patch_size, source)
    labels = _labels(config.get("label_names") or pretrained.get("label_names"), options["num_classes"])
    return _convert(options, Tensors(load_merged(path, source, lora), source), preprocessing, source, labels)


def read_module(module: nn.Module) -> Checkpoint:
    """Read a ``NaFlexVit`` as it stands in memory.

    Raises:
        CheckpointError: A part of it has no counterpart here.
    """
    source = "NaFlexVit"
    options = options_of(module) | {"num_classes": module.num_classes}
    pretrained = getattr(module, "pretrained_cfg", None) or {}
    patch_size = TimmConfig.of(options, source).patch_size
    preprocessing = _preprocessing(Registered({}), pretrained, patch_size, source)
    labels = _labels(pretrained.get("label_names"), options["num_classes"])
    return _convert(options, Tensors(module.state_dict(), source), preprocessing, source, labels)


def registered_as(name: str, source: str) -> Registered:
    """What timm registers under a name, its tag left out.

    Raises:
        CheckpointError: Nothing; names the nearest.
    """
    bare = name.removeprefix("timm/").partition(".")[0]
    if bare not in ARCHITECTURES:
        raise NoCheckpointError(f"{source}: '{name}' is no NaFlexVit architecture", hint=nearest(bare, ARCHITECTURES))
    return ARCHITECTURES[bare]


def _convert(
    options: Mapping[str, Any],
    tensors: Tensors,
    preprocessing: Preprocessing,
    source: str,
    labels: tuple[str, ...] = (),
) -> Checkpoint:
    config = TimmConfig.of(options, source)
    try:
        architecture = config.architecture(options["num_classes"])
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}", hint="the options contradict each other") from None
    weights = dict(timm_weights(config, architecture, tensors))
    tensors.finish()
    return Checkpoint(source, architecture, weights, preprocessing, labels)


def _preprocessing(
    registered: Registered, pretrained: Mapping[str, Any], patch_size: int, source: str
) -> Preprocessing:
    resample = pretrained.get("interpolation") or "bicubic"
    if resample not in FILTERS:
        raise CheckpointError(
            f"{source}: interpolation = '{resample}' is not supported", hint=f"supported: {', '.join(FILTERS)}"
        )
    return Preprocessing(
        patch_size=patch_size,
        mean=tuple(pretrained.get("mean") or registered.mean),
        std=tuple(pretrained.get("std") or registered.std),
        resample=resample,
    )


def _labels(names: Any, classes: int) -> tuple[str, ...]:
    if isinstance(names, dict):
        names = [names.get(str(index), names.get(index, str(index))) for index in range(classes)]
    return tuple(str(name) for name in names or ())
