"""The options of a timm NaFlexVit module, read off its parts: the module keeps no record of its config."""

from __future__ import annotations

from typing import Any

from torch import nn

from naflex_deploy.core.errors import CheckpointError

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh"}
ROPES = {
    "RotaryEmbeddingCat": "axial",
    "RotaryEmbeddingMixed": "mixed",
    "RotaryEmbeddingDinoV3": "dinov3",
    "RotaryEmbeddingMRope": "mrope",
}
ATTENTIONS = {"Attention": "standard", "EvaAttention": "eva", "AttentionRope": "rope"}
BLOCKS = ("Block", "EvaBlock")


def options_of(model: Any) -> dict[str, Any]:
    """Options under timm's names.

    Args:
        model: A ``timm.models.naflexvit.NaFlexVit``.

    Raises:
        CheckpointError: A part is of a class that has no counterpart here.
    """
    embeds, block = model.embeds, model.blocks[0]
    attention, mlp = block.attn, block.mlp
    _known(block, "block_fn", BLOCKS)
    attention_type = _known(attention, "attn_layer", tuple(ATTENTIONS), ATTENTIONS)
    epsilons = set()
    for module in model.modules():
        if "Norm" in type(module).__name__:
            _known(module, "norm_layer", ("LayerNorm",))
            epsilons.add(module.eps)
    if len(epsilons) > 1:
        raise CheckpointError(f"NaFlexVit: norms of several eps, {sorted(epsilons)}", hint="one for all is supported")
    gated = type(mlp).__name__ in ("SwiGLU", "GluMlp")
    if not gated:
        _known(mlp, "mlp_layer", ("Mlp",))
    separate = getattr(attention, "qkv", None) is None
    pool = model.attn_pool
    # A gated MLP has its own activation; the pooling head's still follows the option.
    act = mlp.act if not gated else pool.mlp.act if pool is not None else None
    return {
        "norm_eps": epsilons.pop(),
        "patch_size": tuple(embeds.patch_size),
        "in_chans": embeds.in_chans,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": attention.num_heads,
        "mlp_ratio": _ratio(mlp, model.embed_dim),
        "scale_mlp_norm": _present(mlp.norm),
        "num_kv_heads": tuple(b.attn.num_kv_heads for b in model.blocks) if _shares(model) else None,
        "qkv_bias": _qkv_bias(attention),
        "qk_norm": _present(attention.q_norm),
        "proj_bias": attention.proj.bias is not None,
        "scale_attn_inner_norm": _present(attention.norm),
        "init_values": 1.0 if _scaled(block, 1) else None,
        "attn_only_layer_scale": _scaled(block, 1) and not _scaled(block, 2),
        "class_token": embeds.has_class_token,
        "reg_tokens": embeds.num_reg_tokens,
        "pos_embed": embeds.pos_embed_type,
        "pos_embed_grid_size": embeds.pos_embed_grid_size,
        "pos_embed_interp_mode": embeds.pos_embed_interp_mode,
        "pos_embed_ar_preserving": embeds.pos_embed_ar_preserving,
        "pos_embed_antialias": embeds.pos_embed_antialias,
        "pos_embed_align_corners": embeds.pos_embed_align_corners,
        "pos_embed_use_grid_sample": embeds.pos_embed_use_grid_sample,
        **_rope(model.rope, attention),
        "patchify_channels_last": embeds.channels_last,
        "pre_norm": _present(model.norm_pre),
        "final_norm": _present(model.norm) or _present(model.fc_norm),
        "fc_norm": _present(model.fc_norm),
        "global_pool": model.global_pool,
        "pool_include_prefix": model.pool_include_prefix,
        "attn_pool_num_heads": None if pool is None or pool.num_heads == attention.num_heads else pool.num_heads,
        "attn_pool_mlp_ratio": None if pool is None else _ratio(pool.mlp, model.embed_dim),
        "embed_proj_type": "linear" if embeds.is_linear else "conv",
        "embed_norm_layer": "layernorm" if _present(embeds.norm) else None,
        "act_layer": None if act is None else _known(act, "act_layer", tuple(ACTIVATIONS), ACTIVATIONS),
        "attn_type": attention_type,
        "attn_gated": getattr(attention, "gate", None) is not None,
        "swiglu_mlp": gated,
        "swiglu_align_to": 1 if type(mlp).__name__ == "SwiGLU" else 0,
        "qkv_fused": not separate,
    }


def _known(module: nn.Module, option: str, names: tuple[str, ...], values: dict[str, str] | None = None) -> str:
    name = type(module).__name__
    if name not in names:
        raise CheckpointError(f"NaFlexVit: {option} = {name} is not supported", hint=f"supported: {', '.join(names)}")
    return values[name] if values else name


def _present(module: nn.Module | None) -> bool:
    return module is not None and not isinstance(module, nn.Identity)


def _ratio(mlp: Any, width: int) -> float:
    """Of hidden channels; half a channel more, so that rounding the product down gives them back."""
    hidden: int = mlp.fc2.in_features
    return (hidden + 0.5) / width


def _shares(model: Any) -> bool:
    return any(getattr(b.attn, "num_kv_groups", 1) > 1 for b in model.blocks)


def _qkv_bias(attention: Any) -> bool:
    if getattr(attention, "qkv", None) is None:
        return attention.q_proj.bias is not None
    return attention.qkv.bias is not None or getattr(attention, "q_bias", None) is not None


def _scaled(block: Any, branch: int) -> bool:
    if hasattr(block, f"gamma_{branch}"):
        return getattr(block, f"gamma_{branch}") is not None
    return _present(getattr(block, f"ls{branch}", None))


def _rope(rope: Any, attention: Any) -> dict[str, Any]:
    if rope is None:
        return {"rope_type": ""}
    kind = _known(rope, "rope_type", tuple(ROPES), ROPES)
    options = {
        "rope_type": kind,
        "rope_temperature": rope.temperature,
        "rope_grid_indexing": rope.grid_indexing,
        "rope_rotate_half": bool(attention.rotate_half),
    }
    if kind == "mrope":
        options["rope_mrope_section"] = tuple(rope.mrope_section)
    elif kind != "mixed":
        options["rope_grid_offset"] = rope.grid_offset
    if kind == "axial" and rope.ref_feat_shape is not None:
        options["rope_ref_feat_shape"] = tuple(rope.ref_feat_shape)
    return options
