"""LoRA adapters as peft saves them, merged into the weights they were trained on: ``W + s·B·A``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from naflex_deploy.compiler.checkpoints.files.load import load_json, load_safetensors
from naflex_deploy.core.errors import CheckpointError

ROOT = "base_model.model."
"""What peft puts before a model's own names."""

PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?")

UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "target_parameters",
)
"""Options under which merging is not the formula above."""


def merge(tensors: Mapping[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """Merge an adapter: its pairs are added, modules that were trained whole replace their like.

    The formula is that of Hu et al., LoRA, 2021: ``s = α/r``; with ``use_rslora``, ``s = α/√r``.

    Args:
        tensors: Of the base model, by its own names.
        adapter: A directory with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        CheckpointError: It is of another kind, changes a tensor that the model does not have, or has other shapes.
    """
    source = str(adapter)
    config = load_json(adapter / "adapter_config.json", source)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{source}: peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    for option in UNSUPPORTED:
        if config.get(option):
            raise CheckpointError(
                f"{source}: {option} = {config[option]!r} is not supported",
                hint="merge it with peft (merge_and_unload), save the model, and give that",
            )
    pairs, whole = _parse(_load(adapter, source), source)
    merged = dict(tensors)
    for module, (embedding, halves) in pairs.items():
        name = _own_name(f"{module}.weight", tensors)
        if name is None or set(halves) != {"A", "B"}:
            raise CheckpointError(
                f"{source}: expected a weight and both halves for '{module}', found "
                f"{'no such weight in the model' if name is None else f'lora_{min(halves)} alone'}",
                hint="give the model that the adapter was trained on",
            )
        a, b = halves["A"].float(), halves["B"].float()
        weight = tensors[name].float()
        shape = weight.shape[::-1] if embedding else weight.shape
        if len(shape) != 2 or a.shape != (len(a), shape[1]) or b.shape != (shape[0], len(a)):
            raise CheckpointError(
                f"{source}: '{module}' is {list(shape)}: expected lora_A [r, {shape[-1]}] and lora_B [{shape[0]}, r], "
                f"found {list(a.shape)} and {list(b.shape)}",
                hint="give the model that the adapter was trained on",
            )
        change = b @ a
        merged[name] = weight + _scale(config, module, len(a)) * (change.T if embedding else change)
    for module, tensor in whole.items():
        name = _own_name(module, tensors) or module
        if name in tensors and tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: '{module}': expected shape {list(tensors[name].shape)}, found {list(tensor.shape)}",
                hint="give the model that the adapter was trained on",
            )
        merged[name] = tensor
    return merged


def _load(adapter: Path, source: str) -> dict[str, Tensor]:
    names = ("adapter_model.safetensors", "adapter_model.bin")
    return load_safetensors(
        next((adapter / name for name in names if (adapter / name).exists()), adapter / names[0]), source
    )


def _parse(
    tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, tuple[bool, dict[str, Tensor]]], dict[str, Tensor]]:
    """(embedding, halves) of each changed module, and tensors that were trained whole, by the model's names."""
    pairs: dict[str, tuple[bool, dict[str, Tensor]]] = {}
    whole = {}
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: tensor '{key}' holds NaN or infinity", hint="save it again")
        name = key.removeprefix(ROOT).replace(".base_layer", "").replace(".modules_to_save", "")
        if found := PAIR.fullmatch(name):
            pairs.setdefault(found["module"], (bool(found["embedding"]), {}))[1][found["half"]] = tensor
        elif "lora_" in name:
            raise CheckpointError(
                f"{source}: tensor '{key}' is not supported",
                hint="merge it with peft (merge_and_unload), save the model, and give that",
            )
        else:
            whole[name] = tensor
    return pairs, whole


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """s of a module; patterns are regular expressions that match the end of its name."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module))
    alpha = next(own, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _own_name(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """A name as the file has it: a vision model alone is stored with or without its prefix."""
    prefix = "vision_model."
    spellings = (name, f"{prefix}{name}", name.removeprefix(prefix))
    return next((spelling for spelling in spellings if spelling in tensors), None)
