"""Hugging Face SigLIP2-NaFlex: a directory or a module object; of a model that holds one as a tower, that tower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.files import load_json
from naflex_deploy.compiler.checkpoints.lora import load_merged
from naflex_deploy.compiler.checkpoints.tensors import Tensors
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.preprocessing import Preprocessing

VISION_CLASSES = ("Siglip2Model", "Siglip2VisionModel", "Siglip2ForImageClassification")
VISION_TYPE = "siglip2_vision_model"
VLM_TYPES = ("lfm2_vl",)
"""Models whose image tower is a `Siglip2VisionModel`, which is read alone."""
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
PIL_FILTERS = {2: "bilinear", 3: "bicubic"}


def read_directory(path: Path, source: str | None = None, lora: Path | None = None) -> Checkpoint:
    """Read a directory as ``save_pretrained`` writes it, an adapter merged into it if there is one.

    Raises:
        CheckpointError: A file is missing or unreadable, or the model is not SigLIP2-NaFlex.
    """
    source = source or str(path)
    config = load_json(path / "config.json", source)
    processor = load_json(path / "preprocessor_config.json", source, required=False)
    return _convert(config, processor, Tensors(load_merged(path, source, lora), source), source)


def read_module(module: nn.Module) -> Checkpoint:
    """Read a transformers ``Siglip2…`` module as it stands in memory. Preprocessing is the class's default."""
    source = type(module).__name__
    config = getattr(module, "config", None)
    if source not in VISION_CLASSES or config is None:
        raise CheckpointError(
            f"cannot read a module of class {source}, expected one of {', '.join(VISION_CLASSES)}",
            hint="pass the model itself, not a wrapper around it",
        )
    return _convert(config.to_dict() | {"architectures": [source]}, {}, Tensors(module.state_dict(), source), source)


def _convert(config: dict[str, Any], processor: dict[str, Any], tensors: Tensors, source: str) -> Checkpoint:
    vision = _vision_config(config, source)
    prefix = tensors.prefix_of(PATCH_EMBEDDING)
    if config.get("model_type") in VLM_TYPES:
        tensors, prefix = tensors.below(prefix), ""
    rows = tensors.shape("classifier.weight")
    labels = _labels(config, rows[0]) if rows else ()
    classes = len(labels)
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
        channels=vision["num_channels"],
        positions=Positions((grid, grid)),
        activation=vision["hidden_act"],
        norm_eps=vision["layer_norm_eps"],
        pooling="map" if has_head else "mean",
        classes=classes,
    )
    weights = dict(_weights(architecture, tensors, prefix))
    tensors.finish(ignore=("text_model.", "logit_", f"{prefix}head."))
    preprocessing = _preprocessing(processor, vision["patch_size"], source)
    multi_label = config.get("problem_type") == "multi_label_classification"
    return Checkpoint(source, architecture, weights, preprocessing, labels, "sigmoid" if multi_label else "softmax")


def _architecture(source: str, **options: Any) -> Architecture:
    try:
        return Architecture(**options)
    except ValueError as error:
        raise CheckpointError(f"{source}: config.json: {error}", hint="its values contradict each other") from None


def _weights(a: Architecture, tensors: Tensors, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) for everything the packed model needs."""
    d, hidden = a.width, a.mlp_width
    yield from tensors.linear("embed", f"{prefix}embeddings.patch_embedding", d, a.patch_values).items()
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
    values = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    for name, default in defaults.items():
        wrong = not isinstance(values[name], (int, float) if isinstance(default, float) else type(default))
        if wrong:
            raise CheckpointError(
                f"{source}: config.json: {name}: expected {type(default).__name__}, found {values[name]!r}"
            )
    if values["hidden_act"] not in ACTIVATIONS:
        raise CheckpointError(
            f"{source}: hidden_act = '{values['hidden_act']}' is not supported", hint=f"known: {', '.join(ACTIVATIONS)}"
        )
    return values | {"hidden_act": ACTIVATIONS[values["hidden_act"]]}


def _vision_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    kind, vision = config.get("model_type"), config.get("vision_config") or config
    if kind not in ("siglip2", VISION_TYPE, *VLM_TYPES):
        raise CheckpointError(
            f"{source}: config.json has model_type '{kind}', expected 'siglip2' or '{VISION_TYPE}'",
            hint="fixed-resolution SigLIP is another model; use a '…-naflex' checkpoint",
        )
    return checked(vision, VISION_DEFAULTS, source)


def _labels(config: dict[str, Any], classes: int) -> tuple[str, ...]:
    # transformers leaves id2label out when it is its default of two labels.
    names = config.get("id2label") or {index: f"LABEL_{index}" for index in range(classes)}
    return tuple(str(name) for _, name in sorted((int(index), name) for index, name in names.items()))


def _preprocessing(processor: Mapping[str, Any], patch_size: int, source: str) -> Preprocessing:
    stated = processor.get("patch_size", patch_size)
    if stated != patch_size:
        raise CheckpointError(
            f"{source}: preprocessor_config.json has patch_size {stated}, config.json {patch_size}",
            hint="the two files belong to different models",
        )
    resample = processor.get("resample", 2)
    if resample not in PIL_FILTERS:
        raise CheckpointError(
            f"{source}: preprocessor_config.json: resample = {resample} is not supported",
            hint="2 (bilinear) and 3 (bicubic) are",
        )
    return Preprocessing(
        patch_size=patch_size,
        mean=tuple(processor.get("image_mean") or (0.5,) * 3),
        std=tuple(processor.get("image_std") or (0.5,) * 3),
        resample=PIL_FILTERS[resample],
    )
