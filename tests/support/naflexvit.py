"""timm's NaFlexVit as the reference model."""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
import copy
from collections.abc import Sequence

import timm
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import Tensor

from naflex_deploy.core.pack import Patches
from tests.support.packs import Results
from tests.support.siglip2 import right_interpolation
from tests.support.weights import reseed

OPTIONS = {
    "learned, bilinear": {"pos_embed_interp_mode": "bilinear"},
    "no antialias": {"pos_embed_antialias": False},
    "bilinear, no antialias": {"pos_embed_interp_mode": "bilinear", "pos_embed_antialias": False},
    "align corners": {"pos_embed_align_corners": True, "pos_embed_antialias": False},
    "align corners, antialias": {"pos_embed_align_corners": True},
    "aspect preserving": {"pos_embed_ar_preserving": True},
    "grid sample": {"pos_embed_use_grid_sample": True},
    "grid sample, factorized": {"pos_embed_use_grid_sample": True, "pos_embed": "factorized"},
    "factorized": {"pos_embed": "factorized"},
    "no positions": {"pos_embed": "none"},
    "oblong table": {"pos_embed_grid_size": (5, 24)},
    "class and registers": {"class_token": True, "reg_tokens": 3},
    "average": {"global_pool": "avg"},
    "average, final norm before pooling": {"global_pool": "avg", "fc_norm": False},
    "average with prefix": {"global_pool": "avg", "class_token": True, "pool_include_prefix": True},
    "average without prefix": {"global_pool": "avg", "class_token": True, "reg_tokens": 2},
    "largest": {"global_pool": "max", "reg_tokens": 2},
    "largest with prefix": {"global_pool": "max", "reg_tokens": 2, "pool_include_prefix": True},
    "average and largest": {"global_pool": "avgmax", "class_token": True},
    "class token": {"global_pool": "token", "class_token": True, "reg_tokens": 1},
    "class token, prefix included": {"global_pool": "token", "class_token": True, "pool_include_prefix": True},
    "map with prefix": {"global_pool": "map", "class_token": True, "reg_tokens": 1, "pool_include_prefix": True},
    "map without prefix": {"global_pool": "map", "class_token": True, "reg_tokens": 1},
    "map of other shape": {"attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 1.3},
    "no final norm": {"final_norm": False},
    "norm before blocks": {"pre_norm": True, "class_token": True},
    "norm of patches": {"embed_norm_layer": "layernorm"},
    "no qkv bias": {"qkv_bias": False},
    "no projection bias": {"proj_bias": False},
    "LayerScale": {"init_values": 1e-5},
    "odd MLP": {"mlp_ratio": 2.71},
    "channels first": {"patchify_channels_last": False},
    "convolution": {"embed_proj_type": "conv", "class_token": True},
    "tanh": {"act_layer": "gelu_tanh"},
    "q/k norm": {"qk_norm": True},
    "scale norms": {"scale_attn_inner_norm": True, "scale_mlp_norm": True},
    "SwiGLU": {"swiglu_mlp": True},
    "SwiGLU, tanh in the pooling head": {"swiglu_mlp": True, "act_layer": "gelu_tanh"},
    "SwiGLU with norm": {"swiglu_mlp": True, "scale_mlp_norm": True},
    "SwiGLU, aligned": {"swiglu_mlp": True, "mlp_ratio": 2.1, "swiglu_align_to": 16},
    "eva": {"attn_type": "eva", "init_values": 1e-5},
    "eva, separate q/k/v": {"attn_type": "eva", "qkv_fused": False, "scale_attn_inner_norm": True},
    "rope attention without rope": {"attn_type": "rope"},
    "rope axial": {"rope_type": "axial", "class_token": True},
    "rope axial, halves": {"rope_type": "axial", "rope_rotate_half": True, "reg_tokens": 1},
    "rope axial, xy, reference": {
        "rope_type": "axial",
        "rope_grid_indexing": "xy",
        "rope_ref_feat_shape": (16, 12),
        "rope_grid_offset": 0.5,
        "attn_type": "eva",
    },
    "rope dinov3": {"rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True, "class_token": True},
    "rope dinov3, neighbours": {"rope_type": "dinov3", "rope_grid_indexing": "xy", "qk_norm": True},
    "rope mixed": {"rope_type": "mixed", "reg_tokens": 2, "rope_temperature": 10.0},
    "rope mixed, xy": {"rope_type": "mixed", "rope_grid_indexing": "xy", "pos_embed": "none"},
    "rope mrope, gated attention": {
        "rope_type": "mrope",
        "rope_mrope_section": (4, 6, 6),
        "attn_gated": True,
        "pos_embed": "none",
    },
    "rope mrope, uneven sections": {"rope_type": "mrope", "rope_mrope_section": (8, 3, 4), "class_token": True},
    "shared key/value heads": {"attn_type": "rope", "num_kv_heads": 1, "qkv_fused": False, "rope_type": "axial"},
    "shared by block": {
        "attn_type": "rope",
        "num_heads": 4,
        "num_kv_heads": (2, 1),
        "qkv_fused": False,
        "qk_norm": True,
    },
    "gated attention": {"attn_gated": True, "scale_attn_inner_norm": True},
    "LayerScale on attention alone": {"attn_only_layer_scale": True, "init_values": 1.0},
}
"""A name for each set of `NaFlexVitCfg` options worth a comparison of its own."""

NARROW = {"embed_dim": 96, "depth": 2, "num_heads": 3, "patch_size": 8}


def named(name: str, scale: float = 1.0, **changes: object) -> NaFlexVit:
    """A registered architecture, narrow and shallow, with seeded weights."""
    return reseed(timm.create_model(name, **(NARROW | changes)), scale=scale)


def configured(classes: int = 0, scale: float = 1.0, **options: object) -> NaFlexVit:
    """A model of any config, narrow and shallow, with seeded weights."""
    return reseed(NaFlexVit(NaFlexVitCfg(**(NARROW | options)), num_classes=classes), scale=scale)


def golden(model: NaFlexVit, images: Sequence[Patches]) -> Results:
    """The original, in float64, on padded patches with a mask.

    One with a convolution takes whole images. One that samples its table by grid_sample takes one image at a time:
    it rescales float32 coordinates by the largest grid of the batch, which costs digits.
    """
    model = copy.deepcopy(model).double()
    pretrained = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(pretrained.get(key, (0.5,) * 3)).double() for key in ("mean", "std"))
    channels = len(mean)
    pixels = [
        (torch.from_numpy(image.pixels).double().view(len(image), -1, channels) / 255 - mean) / std for image in images
    ]
    with torch.inference_mode(), right_interpolation():
        pairs = list(zip(images, pixels, strict=True))
        if not model.embeds.is_linear:
            parts = [_whole(model, image, values) for image, values in pairs]
        elif model.embeds.pos_embed_use_grid_sample:
            parts = [_padded(model, [image], [values]) for image, values in pairs]
        else:
            return _padded(model, images, pixels)
    pooled = torch.cat([part.pooled for part in parts])
    logits = torch.cat([part.logits for part in parts]) if model.num_classes else None
    return Results(pooled, [token for part in parts for token in part.tokens], logits)


def _padded(model: NaFlexVit, images: Sequence[Patches], pixels: Sequence[Tensor]) -> Results:
    lengths = [len(image) for image in images]
    batch, longest = len(images), max(lengths)
    patches = torch.zeros(batch, longest, pixels[0][0].numel(), dtype=torch.float64)
    coords = torch.zeros(batch, longest, 2, dtype=torch.int64)
    valid = torch.zeros(batch, longest, dtype=torch.bool)
    for row, (image, values) in enumerate(zip(images, pixels, strict=True)):
        values = values if model.embeds.channels_last else values.transpose(1, 2)
        patches[row, : len(image)] = values.flatten(1)
        height, width = image.grid_hw
        coords[row, : len(image)] = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        valid[row, : len(image)] = True
    features = model.forward_features(patches, patch_coord=coords, patch_valid=valid)
    pooled, logits = _head(model, features["patches"], features["patch_valid"])
    prefix = model.num_prefix_tokens
    tokens = [row[: prefix + length] for row, length in zip(features["patches"], lengths, strict=True)]
    return Results(pooled, tokens, logits)


def _whole(model: NaFlexVit, image: Patches, values: Tensor) -> Results:
    (height, width), side = image.grid_hw, model.embeds.patch_size[0]
    picture = (
        values.view(height, width, side, side, -1).permute(4, 0, 2, 1, 3).reshape(1, -1, height * side, width * side)
    )
    tokens = model.forward_features(picture)
    pooled, logits = _head(model, tokens, None)
    return Results(pooled, [tokens[0]], logits)


def _head(model: NaFlexVit, tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    pooled = model.forward_head(tokens, pre_logits=True, patch_valid=valid)
    return pooled, model.head(pooled) if model.num_classes else None
