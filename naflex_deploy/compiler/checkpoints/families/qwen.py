"""Qwen3-VL and Qwen3.5: a tower with rotary and learned positions, and a projector for hidden states on the way."""

from __future__ import annotations

from typing import Any

from naflex_deploy.compiler.checkpoints.families.family import Config, Family, below
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
MERGER = {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}
NAMES = below(
    ("visual",),
    {
        "patch_embed.proj": "embed",
        "pos_embed": "positions.table",
        "blocks.*.norm1": "blocks.*.norm1",
        "blocks.*.attn.qkv": "blocks.*.qkv",
        "blocks.*.attn.proj": "blocks.*.out",
        "blocks.*.norm2": "blocks.*.norm2",
        "blocks.*.mlp.linear_fc1": "blocks.*.mlp.fc1",
        "blocks.*.mlp.linear_fc2": "blocks.*.mlp.fc2",
        **{f"merger.{theirs}": f"projector.{ours}" for theirs, ours in MERGER.items()},
        **{f"deepstack_merger_list.*.{theirs}": f"deepstack.*.{ours}" for theirs, ours in MERGER.items()},
    },
)


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


QWEN3_VL = Family("Qwen3-VL", ("qwen3_vl", "qwen3_vl_moe"), NAMES, _qwen3_vl)
QWEN3_5 = Family("Qwen3.5", ("qwen3_5", "qwen3_5_moe"), NAMES, _qwen3_5)
