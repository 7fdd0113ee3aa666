"""timm NaFlexVit: a registered name with a safetensors file, a file with its config.json, or a module object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint, Original
from naflex_deploy.compiler.checkpoints.files.choice import CONFIG, SINGLE
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.compiler.checkpoints.tensors import Tensors, refuse_quantised
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES, Registered
from naflex_deploy.compiler.checkpoints.timm.classic import classic_options
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.checkpoints.timm.module import options_of
from naflex_deploy.compiler.checkpoints.timm.preprocessing import read_pixels
from naflex_deploy.compiler.checkpoints.timm.weights import timm_weights
from naflex_deploy.compiler.checkpoints.weights import load_weights, unwrapped
from naflex_deploy.core.errors import CheckpointError, NoCheckpointError, nearest
from naflex_deploy.core.manifest import Scores

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What timm's ``PretrainedCfg`` assumes where a file leaves them out."""
DEFAULT_CLASSES = 1000
"""What it assumes for ``num_classes``."""


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
            folder = path.parent if path.name == SINGLE else path
            original = Original("timm", folder, lora=lora) if folder.is_dir() else None
            return replace(read_saved(path, lora=lora), original=original)
        registered_as(rest, "timm")
        raise CheckpointError(
            f"timm:{rest} names an architecture without weights",
            hint=f"give a file, timm:{rest}:FILE.safetensors, or random:{rest} for seeded weights",
        )
    registered = registered_as(name, "timm")
    source = f"timm:{rest}"
    tensors = Tensors(load_weights(Path(file), source, lora), source)
    stated = tensors.shape("head.weight")
    options = registered.options | {"num_classes": stated[0] if stated else 0}
    checkpoint = _convert(options, tensors, registered, {}, source, f"timm's registry: {name}")
    return replace(checkpoint, original=Original("timm", Path(file), name, lora))


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
    config = load_json((path.parent if path.suffix == ".safetensors" else path) / CONFIG, source)
    refuse_quantised(config, source)
    name = str(config.get("architecture", ""))
    arguments = _object(config, "model_args", source)
    # Earlier versions wrote the pretrained_cfg as the file itself.
    pretrained = _object(config, "pretrained_cfg", source) if "pretrained_cfg" in config else config
    if arguments.get("use_naflex"):
        classes = _classes(config, pretrained, DEFAULT_CLASSES, source)
        options: dict[str, Any] = classic_options(name, arguments, classes, source)
    else:
        registered = registered_as(name, source)
        classes = _classes(config, pretrained, registered.classes, source)
        options = registered.options | arguments
    labels = _labels(config.get("label_names") or pretrained.get("label_names"), classes, source)
    tensors = Tensors(load_weights(path, source, lora), source)
    default = Registered({}, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    place = f"{CONFIG}: pretrained_cfg" if pretrained is not config else CONFIG
    return _convert(options | {"num_classes": classes}, tensors, default, pretrained, source, place, labels)


def read_module(module: nn.Module) -> Checkpoint:
    """Read a ``NaFlexVit`` as it stands in memory.

    Raises:
        CheckpointError: A part of it has no counterpart here.
    """
    source = type(module).__name__
    options = options_of(module) | {"num_classes": module.num_classes}
    pretrained = getattr(module, "pretrained_cfg", None) or {}
    labels = _labels(pretrained.get("label_names"), options["num_classes"], source)
    tensors = Tensors(unwrapped(module.state_dict(), source), source)
    return _convert(options, tensors, Registered({}), pretrained, source, "pretrained_cfg", labels)


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
    default: Registered,
    pretrained: Mapping[str, Any],
    source: str,
    place: str,
    labels: tuple[str, ...] = (),
) -> Checkpoint:
    config = TimmConfig.of(options, source)
    preprocessing, origins = read_pixels(pretrained, default, config, source, place)
    try:
        architecture = config.architecture(options["num_classes"])
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}", hint="the options contradict each other") from None
    weights = dict(timm_weights(config, architecture, tensors))
    tensors.finish()
    # The softmax of one value is 1, whatever the image.
    scores: Scores = "sigmoid" if architecture.classes == 1 else "softmax"
    return Checkpoint(source, architecture, weights, preprocessing, labels, scores, origins)


def _object(config: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{source}: {CONFIG}: {name}: expected an object, found {value!r}", hint="save the config again"
        )
    return value


def _classes(config: Mapping[str, Any], pretrained: Mapping[str, Any], default: int, source: str) -> int:
    value = config.get("num_classes", pretrained.get("num_classes", default))
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(
            f"{source}: {CONFIG}: num_classes = {value!r} is not supported", hint="expected a number from 0"
        )
    return value


def _labels(names: Any, classes: int, source: str) -> tuple[str, ...]:
    """Names of the classes; those that an object leaves out are numbers, as timm lets such an object have gaps."""
    if isinstance(names, dict):
        names = [names.get(str(index), names.get(index, str(index))) for index in range(classes)]
    if not isinstance(names, list | tuple | None):
        raise CheckpointError(
            f"{source}: label_names: expected a list or an object, found {names!r}", hint="save the config again"
        )
    if names and len(names) != classes:
        raise CheckpointError(
            f"{source}: label_names has {len(names)} names for num_classes = {classes}",
            hint="name every class, or remove label_names",
        )
    return tuple(str(name) for name in names or ())
