"""Hugging Face SigLIP2-NaFlex: a directory or a module object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.compiler.checkpoints.hf.head import read_head
from naflex_deploy.compiler.checkpoints.hf.processor import read_processor
from naflex_deploy.compiler.checkpoints.tensors import Tensors, refuse_quantised, with_three_channels
from naflex_deploy.compiler.checkpoints.weights import load_weights, unwrapped
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.core.errors import CheckpointError

VISION_TYPE = "siglip2_vision_model"
PATCH_EMBEDDING = "embeddings.patch_embedding.weight"

# What transformers assumes where config.json leaves a key out.
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_patches": 256,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def read_directory(path: Path, source: str | None = None, lora: Path | None = None) -> Checkpoint:
    """Read a directory as ``save_pretrained`` writes it, an adapter merged into it if there is one.

    Raises:
        CheckpointError: A file is missing or unreadable, or the model is not SigLIP2-NaFlex.
    """
    source = source or str(path)
    config = load_json(path / "config.json", source)
    refuse_quantised(config, source)
    _check_type(config, source)
    return convert(config, path, Tensors(load_weights(path, source, lora), source), source)


def read_module(module: nn.Module) -> Checkpoint:
    """Read a transformers ``Siglip2…`` module as it stands in memory. Preprocessing is the class's default."""
    source = type(module).__name__
    config: dict[str, Any] = module.config.to_dict()  # type: ignore[union-attr, operator]
    refuse_quantised(config, source)
    _check_type(config, source)
    return convert(config, None, Tensors(unwrapped(module.state_dict(), source), source), source)


def convert(config: dict[str, Any], directory: Path | None, tensors: Tensors, source: str) -> Checkpoint:
    """A checkpoint of SigLIP2's layout, as any reader of a family with this tower may use it.

    Args:
        config: What ``config.json`` holds.
        directory: Where the preprocessing is read from, if there is one.
        tensors: The weights.
        source: In messages.

    Raises:
        CheckpointError: An option or a tensor is not as expected; names it.
    """
    vision = checked(config.get("vision_config") or config, VISION_DEFAULTS, source)
    prefix = tensors.prefix_of(PATCH_EMBEDDING)
    rows = tensors.shape("classifier.weight")
    labels, scores = read_head(config, rows[0], source) if rows else ((), "softmax")
    classes = len(labels)
    if vision["num_channels"] not in (1, 3):
        raise CheckpointError(
            f"{source}: config.json: num_channels = {vision['num_channels']} is not supported",
            hint="1 (grey) and 3 (RGB) are: image files have no other channels of their own",
        )
    grid = isqrt(vision["num_patches"])
    if grid * grid != vision["num_patches"]:
        raise CheckpointError(
            f"{source}: num_patches = {vision['num_patches']} is not square", hint="SigLIP2-NaFlex has 256 = 16x16"
        )
    # The image classifier averages patches and never runs the attention head, even where one is stored.
    has_head = vision["vision_use_head"] and not classes
    architecture = _architecture(
        source,
        width=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        patch_size=vision["patch_size"],
        positions=Positions((grid, grid)),
        activation=vision["hidden_act"],
        norm_eps=vision["layer_norm_eps"],
        pooling="map" if has_head else "mean",
        classes=classes,
    )
    weights = dict(_weights(architecture, tensors, prefix, vision["num_channels"]))
    tensors.finish(ignore=("text_model.", "logit_", f"{prefix}head."))
    preprocessing, origins = read_processor(directory, config, vision["patch_size"], vision["num_channels"], source)
    return Checkpoint(source, architecture, weights, preprocessing, labels, scores, origins)


def _architecture(source: str, **options: Any) -> Architecture:
    try:
        return Architecture(**options)
    except ValueError as error:
        raise CheckpointError(f"{source}: config.json: {error}", hint="its values contradict each other") from None


def _weights(a: Architecture, tensors: Tensors, prefix: str, channels: int) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) for everything the packed model needs."""
    d, hidden = a.width, a.mlp_width
    embed = tensors.linear("embed", f"{prefix}embeddings.patch_embedding", d, a.patch_size**2 * channels)
    yield "embed.weight", with_three_channels(embed["embed.weight"], channels)
    yield "embed.bias", embed["embed.bias"]
    yield "positions.table", tensors.take(f"{prefix}embeddings.position_embedding.weight", a.table_entries, d)
    yield from encoder(a, tensors, prefix)
    yield from tensors.norm("norm", f"{prefix}post_layernorm", d).items()
    if a.pooling == "map":
        head = f"{prefix}head"
        yield "pool.probe", tensors.take(f"{head}.probe", 1, 1, d)[0]
        stacked_weight = tensors.take(f"{head}.attention.in_proj_weight", 3 * d, d).chunk(3)
        stacked_bias = tensors.take(f"{head}.attention.in_proj_bias", 3 * d).chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), stacked_weight, stacked_bias, strict=True):
            yield f"pool.{name}.weight", weight.contiguous()
            yield f"pool.{name}.bias", bias.contiguous()
        yield from tensors.linear("pool.out", f"{head}.attention.out_proj", d, d).items()
        yield from tensors.norm("pool.norm", f"{head}.layernorm", d).items()
        yield from tensors.linear("pool.mlp.fc1", f"{head}.mlp.fc1", hidden, d).items()
        yield from tensors.linear("pool.mlp.fc2", f"{head}.mlp.fc2", d, hidden).items()
    if a.classes:
        yield from tensors.linear("classifier", "classifier", a.classes, d).items()


def encoder(a: Architecture, tensors: Tensors, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) for the blocks of an image or text tower."""
    d, hidden = a.width, a.mlp_width
    for i in range(a.depth):
        ours, theirs = f"blocks.{i}", f"{prefix}encoder.layers.{i}"
        yield from tensors.norm(f"{ours}.norm1", f"{theirs}.layer_norm1", d).items()
        for our_name, their_name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
            yield from tensors.linear(f"{ours}.{our_name}", f"{theirs}.self_attn.{their_name}", d, d).items()
        yield from tensors.norm(f"{ours}.norm2", f"{theirs}.layer_norm2", d).items()
        yield from tensors.linear(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1", hidden, d).items()
        yield from tensors.linear(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2", d, hidden).items()


def checked(config: Mapping[str, Any], defaults: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A tower's config with what it leaves out, the activation by our name.

    Raises:
        CheckpointError: A value is of another type than its default, or the activation is not supported.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"{source}: config.json: expected an object for a tower, found {config!r}")
    values = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    for name, default in defaults.items():
        right = isinstance(values[name], (int, float) if isinstance(default, float) else type(default))
        if not right or (isinstance(values[name], bool) and not isinstance(default, bool)):
            raise CheckpointError(
                f"{source}: config.json: {name}: expected {type(default).__name__}, found {values[name]!r}",
                hint="correct the value, or save the config again",
            )
    if values["hidden_act"] not in ACTIVATIONS:
        raise CheckpointError(
            f"{source}: hidden_act = '{values['hidden_act']}' is not supported", hint=f"known: {', '.join(ACTIVATIONS)}"
        )
    return values | {"hidden_act": ACTIVATIONS[values["hidden_act"]]}


def _check_type(config: Mapping[str, Any], source: str) -> None:
    kind = config.get("model_type")
    if kind not in ("siglip2", VISION_TYPE):
        raise CheckpointError(
            f"{source}: config.json has model_type '{kind}', expected 'siglip2' or '{VISION_TYPE}'",
            hint="fixed-resolution SigLIP is another model; use a '…-naflex' checkpoint",
        )
