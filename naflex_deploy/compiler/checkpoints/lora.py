"""LoRA adapters as peft saves them, merged into the weights they were trained on: ``W + s·B·A``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from naflex_deploy.compiler.checkpoints.files.choice import ADAPTER, ADAPTER_CONFIG
from naflex_deploy.compiler.checkpoints.files.load import load_json, load_safetensors
from naflex_deploy.compiler.checkpoints.tensors import bare_name
from naflex_deploy.core.errors import CheckpointError

ROOT = "base_model.model."
"""What peft puts before a model's own names."""

PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?")

HARMLESS = {
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
    ),
    *("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "modules_to_save"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
    *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "megatron_config", "megatron_core"),
    *("qalora_group_size", "runtime_config", "ensure_weight_tying", "peft_version"),
}
"""Options that the formula takes into account, or that act in training alone. Any other that is set is refused."""

INITS: tuple[object, ...] = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` that leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take a part out
of the base's weights, which peft takes out again when it loads the adapter."""

MERGE = "merge it with peft (merge_and_unload), save the model, and give that"
CONVERT = (
    "save it from training with path_initial_model_for_weight_conversion, which makes it a plain LoRA adapter, or "
    "merge it with peft (merge_and_unload), save the model, and give that"
)


def merge(tensors: Mapping[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """Merge an adapter: its pairs are added to weights, and modules that were trained whole replace those of the model.

    The formula is that of Hu et al., LoRA, 2021: ``s = α/r``; with ``use_rslora``, ``s = α/√r``.

    Args:
        tensors: The base model's, by its own names.
        adapter: A directory with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        CheckpointError: It is of another kind, changes a tensor that the model does not have, or has other shapes.
    """
    source = str(adapter)
    config = load_json(adapter / ADAPTER_CONFIG, source)
    _check(config, source)
    pairs, whole = _parse(_load(adapter, source), source)
    names = _Names(tensors)
    merged = dict(tensors)
    for module, (embedding, halves) in pairs.items():
        name = names.own(f"{module}.weight")
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
        name = names.own(module) or bare_name(module)
        if name in tensors and tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: '{module}': expected shape {list(tensors[name].shape)}, found {list(tensor.shape)}",
                hint="give the model that the adapter was trained on",
            )
        merged[name] = tensor
    return merged


def _load(adapter: Path, source: str) -> dict[str, Tensor]:
    names = (ADAPTER, "adapter_model.bin")
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
                hint=MERGE,
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


def _check(config: Mapping[str, Any], source: str) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{source}: peft_type is {config.get('peft_type')!r}, expected 'LORA'", hint=MERGE)
    init = config.get("init_lora_weights", True)
    if not any(init is known or (isinstance(init, str) and init == known) for known in INITS):
        raise CheckpointError(
            f"{source}: init_lora_weights = {init!r} is not supported: such an adapter is relative to a base that peft "
            "changes when it loads it",
            hint=CONVERT,
        )
    for option, value in config.items():
        if option not in HARMLESS and value:
            raise CheckpointError(f"{source}: {option} = {value!r} is not supported", hint=MERGE)
    alphas = config.get("alpha_pattern") or {}
    numbers = [config.get("lora_alpha", 8), *(alphas.values() if isinstance(alphas, dict) else ["?"])]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise CheckpointError(
            f"{source}: lora_alpha = {config.get('lora_alpha')!r} with alpha_pattern = {alphas!r} is not supported",
            hint="expected numbers",
        )


class _Names:
    """Names in a file, found by names of an adapter: either may have ``vision_model.`` where the other has not, as
    versions of transformers differ in that, and either may have what wrappers put before names.

    Args:
        tensors: By their names in the file.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._names: dict[str, list[str]] = {}
        self._exact = tensors.keys()
        for name in tensors:
            self._names.setdefault(_without_part(name), []).append(name)

    def own(self, name: str) -> str | None:
        """The one name in the file that is meant; ``None`` where there is none, or several may be."""
        found = [name] if name in self._exact else self._names.get(_without_part(name), [])
        return found[0] if len(found) == 1 else None


def _without_part(name: str) -> str:
    return ".".join(part for part in bare_name(name).split(".") if part != "vision_model")
