"""The text tower of a transformers ``Siglip2Model``: a directory, a hub repository or a module object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naflex_deploy.compiler.checkpoints.files.choice import TEXT_SETTINGS
from naflex_deploy.compiler.checkpoints.files.hub import download
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.compiler.checkpoints.hf import reader as hf
from naflex_deploy.compiler.checkpoints.tensors import Tensors, refuse_quantised, unwrapped_module
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.compiler.checkpoints.weights import load_weights, unwrapped
from naflex_deploy.compiler.model.text_transformer import TextArchitecture, TextTransformer
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.manifest import Tokenization
from naflex_deploy.runtime.text_encoder import Tokenizer

TOKENIZER, TOKENIZER_CONFIG = TEXT_SETTINGS
DEMO = "demo"

# What transformers assumes where config.json leaves a key out.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True, eq=False)
class Text:
    """A text tower read from somewhere.

    Attributes:
        source: Where from.
        architecture: Shape.
        weights: State of `TextTransformer`, float32.
        scale, bias: Of ``scale · cos(image, text) + bias``, the logit that an image and a text belong together.
        tokenizer: The ``tokenizer.json``; ``None`` where there is none.
        tokens: Length and padding of its texts.
    """

    source: str
    architecture: TextArchitecture
    weights: dict[str, Tensor]
    scale: float
    bias: float
    tokenizer: Path | None
    tokens: Tokenization

    def model(self) -> TextTransformer:
        """The tower with these weights, ready to run."""
        with torch.device("meta"):
            model = TextTransformer(self.architecture)
        model.load_state_dict(self.weights, assign=True)
        return model.eval().requires_grad_(False)

    @property
    def tokenizer_file(self) -> Path:
        """The ``tokenizer.json``.

        Raises:
            CheckpointError: There is none.
        """
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.source}: no {TOKENIZER} there, which reading texts needs",
                hint="give a directory that holds the model and its tokenizer",
            )
        return self.tokenizer

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """[N, D] float32, not normalised.

        Raises:
            CheckpointError, MissingExtraError: See `tokenize`.
        """
        ids, mask = self.tokenize(texts)
        with torch.inference_mode():
            found: Tensor = self.model()(ids, mask if self.tokens.mask else None)
        return found

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is longer than the model takes, so that its end is lost."""
        return Tokenizer(self.tokenizer_file, self.tokens).cut(texts)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids [N, length] int64, and which of them are no padding [N, length] bool.

        Raises:
            CheckpointError: There is no tokenizer, or it belongs to another model.
            MissingExtraError: The package ``tokenizers`` is not installed.
        """
        ids, mask = (torch.from_numpy(rows) for rows in Tokenizer(self.tokenizer_file, self.tokens).encode(texts))
        if len(ids) and int(ids.max()) >= self.architecture.vocabulary:
            raise CheckpointError(
                f"{self.source}: {TOKENIZER} gives token {int(ids.max())}, expected below "
                f"{self.architecture.vocabulary}",
                hint="the tokenizer and the weights belong to different models",
            )
        return ids, mask


def read_text(model: str | Path | nn.Module, lora: Path | None = None) -> Text:
    """Read the text tower that stands beside the image tower.

    Args:
        model: As for `read`.
        lora: An adapter to merge.

    Raises:
        CheckpointError: The model has no text tower, or it cannot be read.
    """
    if isinstance(model, nn.Module):
        model = unwrapped_module(model)
        source = type(model).__name__
        if any(kind.__name__ == "Siglip2Model" for kind in type(model).__mro__):
            config: dict[str, Any] = model.config.to_dict()  # type: ignore[union-attr, operator]
            return _convert(config, Tensors(unwrapped(model.state_dict(), source), source), source, None)
        raise _without(source)
    spec = str(model)
    if spec == DEMO:
        with resources.as_file(resources.files("naflex_deploy").joinpath("demo/text/checkpoint")) as folder:
            return _read_directory(folder, spec, None)
    if not spec.startswith("hf:") and not Path(spec).is_dir():
        raise _without(spec)
    path = download(spec.removeprefix("hf:"), texts=True) if spec.startswith("hf:") else Path(spec)
    return _read_directory(path, spec, lora)


def stands_beside(model: str | Path | nn.Module) -> bool:
    """Whether the text tower of a model lies in the files of its image tower, so that their library loads both."""
    return model != DEMO


def _read_directory(path: Path, spec: str, lora: Path | None) -> Text:
    config = load_json(path / "config.json", spec)
    if config.get("model_type") != "siglip2":
        raise _without(spec)
    refuse_quantised(config, spec)
    return _convert(config, Tensors(load_weights(path, spec, lora), spec), spec, path)


def _without(source: str) -> CheckpointError:
    return CheckpointError(
        f"{source} has no text tower", hint="give a two-tower checkpoint such as hf:google/siglip2-base-patch16-naflex"
    )


def _convert(config: dict[str, Any], tensors: Tensors, source: str, directory: Path | None) -> Text:
    if "text_model.final_layer_norm.weight" not in tensors:
        raise _without(source)
    text = hf.checked(config.get("text_config") or {}, DEFAULTS, source)
    width = text["hidden_size"]
    try:
        a = TextArchitecture(
            width=width,
            depth=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            mlp_width=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            length=text["max_position_embeddings"],
            outputs=(config.get("text_config") or {}).get("projection_size") or width,
            activation=text["hidden_act"],
            norm_eps=text["layer_norm_eps"],
        )
        _ = a.blocks
    except ValueError as error:
        raise CheckpointError(
            f"{source}: config.json: text_config: {error}", hint="its values contradict each other"
        ) from None
    prefix = "text_model."
    weights = {
        "tokens.weight": tensors.take(f"{prefix}embeddings.token_embedding.weight", a.vocabulary, width),
        "positions": tensors.take(f"{prefix}embeddings.position_embedding.weight", a.length, width),
        **dict(hf.encoder(a.blocks, tensors, prefix)),
        **tensors.norm("norm", f"{prefix}final_layer_norm", width),
        **tensors.linear("head", f"{prefix}head", a.outputs, width),
    }
    scale, bias = tensors.take("logit_scale", 1), tensors.take("logit_bias", 1)
    tensors.finish(ignore=("vision_model.", "classifier."))
    return Text(
        source=source,
        architecture=a,
        weights=weights,
        scale=float(scale.double().exp()),
        bias=float(bias),
        tokenizer=directory / TOKENIZER if directory and (directory / TOKENIZER).is_file() else None,
        tokens=_tokenization(directory, a.length, source),
    )


def _tokenization(directory: Path | None, length: int, source: str) -> Tokenization:
    """How transformers lays texts out: with `Siglip2Tokenizer`, whichever class the file names, which pads left where
    the file does not say, and gives a mask of padding, which the model applies, where the file does not leave it out.
    """
    stated = load_json(directory / TOKENIZER_CONFIG, source, required=False) if directory else {}
    values = Values(stated, source, TOKENIZER_CONFIG, "Siglip2Tokenizer")
    pad = stated.get("pad_token", "<pad>")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    if not isinstance(pad, str):
        raise values.wrong("pad_token", "a token")
    side = stated.get("padding_side", "left")
    if side not in ("left", "right"):
        raise values.wrong("padding_side", "'left' or 'right'")
    if stated.get("truncation_side", "right") != "right":
        raise values.wrong("truncation_side", "'right'")
    names = stated.get("model_input_names", ["input_ids", "attention_mask"])
    if not isinstance(names, list) or "input_ids" not in names:
        raise values.wrong("model_input_names", "a list with 'input_ids'")
    # config.json names a padding token, too, and in published checkpoints that is another model's.
    return Tokenization(length=length, pad_token=pad, side=side, mask="attention_mask" in names)
