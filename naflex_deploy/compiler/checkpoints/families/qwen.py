"""Qwen3-VL, Qwen3.5 and models that have their towers: rotary and learned positions, projectors of hidden states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from naflex_deploy.compiler.checkpoints.families.family import Config, Family, below, blocks, layers
from naflex_deploy.compiler.checkpoints.families.settings import (
    architecture,
    axial_rope,
    only,
    square_side,
    vision_settings,
)
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Projector

DEFAULTS: dict[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}


def _names(taps: str, first: str, second: str, norm: str) -> dict[str, str]:
    """Names of the tower's modules, by those of the list of mergers of taps and of each merger's layers and norm."""
    return {
        "patch_embed.proj": "embed",
        "pos_embed": "positions.table",
        **blocks("blocks", ("norm1", "norm2"), ("attn.qkv", "attn.proj"), ("mlp.linear_fc1", "mlp.linear_fc2")),
        **below(("merger",), layers(first, second, norm)),
        **below((f"{taps}.*",), layers(first, second, norm, ours="deepstack.*")),
    }


TOWER = _names("deepstack_merger_list", "linear_fc1", "linear_fc2", "norm")
NAMES = below(("visual",), TOWER)


def _tower(config: Config, source: str, taps: list[int]) -> Architecture:
    vision = vision_settings(config, DEFAULTS | {"deepstack_visual_indexes": taps}, source)
    only(vision, "in_channels", (3,), source)
    side = square_side(vision["num_position_embeddings"], "num_position_embeddings", source)
    merge = vision["spatial_merge_size"]
    return architecture(
        source,
        width=vision["hidden_size"],
        depth=vision["depth"],
        heads=vision["num_heads"],
        mlp_width=vision["intermediate_size"],
        patch_size=vision["patch_size"],
        positions=Positions((side, side), antialias=False, align_corners=True),
        activation=vision["hidden_act"],
        pooling="mean",
        final_norm="none",
        rope=axial_rope(vision, source),
        projector=Projector(
            vision["out_hidden_size"],
            hidden=vision["hidden_size"] * merge**2,
            merge=merge,
            taps=tuple(vision["deepstack_visual_indexes"]),
        ),
    )


def _qwen3_vl(config: Config, stored: frozenset[str], source: str) -> Architecture:
    return _tower(config, source, [8, 16, 24])


def _qwen3_5(config: Config, stored: frozenset[str], source: str) -> Architecture:
    return _tower(config, source, [])


OWN_VECTORS = "vectors that the whole model makes of an image"
QWEN3_VL = Family(
    "Qwen3-VL",
    ("qwen3_vl", "qwen3_vl_moe"),
    NAMES,
    _qwen3_vl,
    note=f"of a Qwen3-VL-Embedding or -Reranker too, these are the tower's tokens, not {OWN_VECTORS}",
)
# Published with the names of the tower at the root; transformers saves them as those of Qwen3-VL.
COSMOS3_OMNI = replace(QWEN3_VL, title="Cosmos3-Omni", model_types=("cosmos3_omni",), names={**NAMES, **TOWER}, note="")
COHERE_COMPASS = replace(QWEN3_VL, title="Cohere Compass", model_types=("cohere_compass",), note="")
# The whole model, or the part of it that reads images and writes text.
QWEN3_OMNI = Family(
    "Qwen3-Omni",
    ("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    below(("visual",), _names("merger_list", "mlp.0", "mlp.2", "ln_q")),
    _qwen3_vl,
    part="thinker_config",
)
COLQWEN3 = replace(
    QWEN3_VL,
    title="ColQwen3",
    model_types=("colqwen3", "ops_colqwen3", "qwen3_vl_nemotron_embed"),
    note=f"these are the tower's tokens, not {OWN_VECTORS}",
)
QWEN3_5 = Family(
    "Qwen3.5",
    ("qwen3_5", "qwen3_5_moe"),
    NAMES,
    _qwen3_5,
    note=f"of a ColQwen3.5 too, these are the tower's tokens, not {OWN_VECTORS}",
)
QWEN4_EXP = replace(QWEN3_5, title="Qwen4-Exp", model_types=("qwen4_exp",), note="")
