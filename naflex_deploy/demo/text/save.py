"""Writes a text tower as the part of a ``Siglip2Model`` that transformers keeps beside an image tower."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from naflex_deploy.compiler.model.text_transformer import TextArchitecture, TextTransformer
from naflex_deploy.core.files import new_directory
from naflex_deploy.demo.save import their_block_name

PAD, EOS = "<pad>", "<eos>"

_NAMES = {
    "tokens.": "text_model.embeddings.token_embedding.",
    "positions": "text_model.embeddings.position_embedding.weight",
    "blocks.": "text_model.encoder.layers.",
    "norm.": "text_model.final_layer_norm.",
    "head.": "text_model.head.",
}


def save(model: TextTransformer, tokenizer: Tokenizer, scale: float, bias: float, directory: Path) -> None:
    """Write weights, configuration and tokenizer.

    Args:
        model: The tower.
        tokenizer: Of its texts; its padding and truncation are not kept.
        scale, bias: Of ``scale · cos(image, text) + bias``.
        directory: Directory to write. It must not exist, and appears only once everything in it is written.
    """
    weights = {_theirs(name): tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    weights |= {"logit_scale": torch.tensor([math.log(scale)]), "logit_bias": torch.tensor([bias])}
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "padding_side": "right",
        "model_input_names": ["input_ids"],
    }
    with new_directory(directory) as partial:
        save_file(weights, partial / "model.safetensors", {"format": "pt"})
        (partial / "model.safetensors").chmod(0o644)
        for name, content in (("config.json", _config(model.architecture)), ("tokenizer_config.json", settings)):
            (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (partial / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")


def _theirs(name: str) -> str:
    start = next(start for start in _NAMES if name.startswith(start))
    return their_block_name(_NAMES[start] + name.removeprefix(start))


def _config(a: TextArchitecture) -> dict[str, object]:
    return {
        "model_type": "siglip2",
        "dtype": "float32",
        "text_config": {
            "model_type": "siglip2_text_model",
            "hidden_size": a.width,
            "intermediate_size": a.mlp_width,
            "num_hidden_layers": a.depth,
            "num_attention_heads": a.heads,
            "vocab_size": a.vocabulary,
            "max_position_embeddings": a.length,
            "projection_size": a.outputs,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": a.norm_eps,
        },
    }
