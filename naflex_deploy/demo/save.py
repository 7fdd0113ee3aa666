"""Writes a packed model as the directory that transformers' ``Siglip2ForImageClassification`` loads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.core.files import new_directory

# Our names → those of transformers: prefixes of tensor names, then parts of names inside a block.
_NAMES = {
    "embed.": "vision_model.embeddings.patch_embedding.",
    "positions.table": "vision_model.embeddings.position_embedding.weight",
    "blocks.": "vision_model.encoder.layers.",
    "norm.": "vision_model.post_layernorm.",
    "classifier.": "classifier.",
}
_BLOCK_NAMES = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".query.": ".self_attn.q_proj.",
    ".key.": ".self_attn.k_proj.",
    ".value.": ".self_attn.v_proj.",
    ".out.": ".self_attn.out_proj.",
}


def save(model: PackedNaFlexViT, labels: Sequence[str], directory: Path) -> None:
    """Write weights, configuration and preprocessing.

    Args:
        model: A classifier with mean pooling, whose projection takes pixels normalised to -1…1.
        labels: Name of each class.
        directory: Directory to write. It must not exist, and appears only once everything in it is written.
    """
    weights = {_theirs(name): tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with new_directory(directory) as partial:
        save_file(weights, partial / "model.safetensors", {"format": "pt"})
        (partial / "model.safetensors").chmod(0o644)
        _write_json(partial / "config.json", _config(model.architecture, labels))
        _write_json(partial / "preprocessor_config.json", _preprocessor(model.architecture))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _theirs(name: str) -> str:
    start = next(start for start in _NAMES if name.startswith(start))
    return their_block_name(_NAMES[start] + name.removeprefix(start))


def their_block_name(name: str) -> str:
    """The name of a tensor in a block, whose parts have other names in transformers."""
    for ours, theirs in _BLOCK_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _config(a: Architecture, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "architectures": ["Siglip2ForImageClassification"],
        "model_type": "siglip2",
        "dtype": "float32",
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "vision_config": {
            "model_type": "siglip2_vision_model",
            "hidden_size": a.width,
            "intermediate_size": a.mlp_width,
            "num_hidden_layers": a.depth,
            "num_attention_heads": a.heads,
            "num_channels": a.channels,
            "num_patches": a.table_entries,
            "patch_size": a.patch_size,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": a.norm_eps,
            # The classifier averages the tokens, so an attention head would stay untrained.
            "vision_use_head": False,
        },
    }


def _preprocessor(a: Architecture) -> dict[str, Any]:
    return {
        "image_processor_type": "Siglip2ImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "patch_size": a.patch_size,
        "max_num_patches": 256,
    }
