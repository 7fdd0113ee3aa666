"""Kimi: towers of MoonViT's layout, whose rotary pairs are neighbouring channels with column and row in turn."""

from __future__ import annotations

from typing import Any

from naflex_deploy.compiler.checkpoints.families.family import Config, Family, below, blocks, layers
from naflex_deploy.compiler.checkpoints.families.settings import (
    architecture,
    axial_rope,
    only,
    text_width,
    vision_settings,
)
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Projector
from naflex_deploy.core.errors import CheckpointError

EPS = 1e-5
DEFAULTS: dict[str, Any] = {
    "patch_size": 14,
    "pos_emb_height": 64,
    "pos_emb_width": 64,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "hidden_act": "gelu_pytorch_tanh",
    "merge_kernel_size": [2, 2],
}
EARLIER = {
    "init_pos_emb_height": "pos_emb_height",
    "init_pos_emb_width": "pos_emb_width",
    "vt_num_attention_heads": "num_attention_heads",
    "vt_num_hidden_layers": "num_hidden_layers",
    "vt_hidden_size": "hidden_size",
    "vt_intermediate_size": "intermediate_size",
}
"""Names in the configs that the models were published with."""
TOWER = {
    "patch_embed.proj": "embed",
    "patch_embed.pos_emb": "positions.table",
    "encoder.patch_embed.proj": "embed",  # transformers saves it so
    **blocks("encoder.blocks", ("norm0", "norm1"), ("wqkv", "wo"), ("mlp.fc0", "mlp.fc1")),
    "encoder.final_layernorm": "norm",
    "patch_embed.pos_emb.time_weight": "",
}


def _tower(config: Config, source: str, projector_eps: float) -> Architecture:
    vision = vision_settings(config, DEFAULTS, source, EARLIER)
    only(vision, "pos_emb_type", ("divided_fixed",), source)
    only(vision, "merge_type", ("sd2_tpool",), source)
    rows, columns = vision["merge_kernel_size"]
    if rows != columns:
        raise CheckpointError(
            f"{source}: config.json: merge_kernel_size = {[rows, columns]} is not supported", hint="square blocks are"
        )
    return architecture(
        source,
        width=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        patch_size=vision["patch_size"],
        positions=Positions(
            (vision["pos_emb_height"], vision["pos_emb_width"]), interpolation="bicubic", antialias=False
        ),
        activation=vision["hidden_act"],
        norm_eps=EPS,
        pooling="mean",
        rope=axial_rope(vision, source),
        projector=Projector(
            text_width(config, source),
            hidden=vision["hidden_size"] * rows * columns,
            merge=rows,
            norm_eps=projector_eps,
        ),
    )


def _kimi_k2(config: Config, stored: frozenset[str], source: str) -> Architecture:
    values = Values(config, source, "config.json", "Kimi_K25Config")
    return _tower(config, source, values.number("projection_layer_norm_eps", EPS))


def _kimi_vl(config: Config, stored: frozenset[str], source: str) -> Architecture:
    return _tower(config, source, EPS)


KIMI_K2 = Family(
    title="Kimi K2.5",
    model_types=("kimi_k25",),
    names={
        **below(("vision_tower",), TOWER),
        **layers("mm_projector.proj.0", "mm_projector.proj.2", "mm_projector.pre_norm"),
    },
    architecture=_kimi_k2,
    paired_rope=True,
)
KIMI_VL = Family(
    title="Kimi-VL",
    model_types=("kimi_vl",),
    names={
        **below(("vision_tower",), TOWER),
        **layers("multi_modal_projector.linear_1", "multi_modal_projector.linear_2", "multi_modal_projector.pre_norm"),
    },
    architecture=_kimi_vl,
    paired_rope=True,
)
