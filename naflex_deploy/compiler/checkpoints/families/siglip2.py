"""Families whose tower is SigLIP2-NaFlex under the names of transformers: they differ in the projector alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naflex_deploy.compiler.checkpoints.families.family import Config, Family, below, blocks, layers
from naflex_deploy.compiler.checkpoints.families.settings import (
    architecture,
    only,
    square_side,
    text_width,
    vision_settings,
)
from naflex_deploy.compiler.checkpoints.hf.reader import VISION_DEFAULTS
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Projector

NORMS = ("layer_norm1", "layer_norm2")
ENCODER = {
    **blocks(
        "encoder.layers",
        NORMS,
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        ("mlp.fc1", "mlp.fc2"),
    ),
    "post_layernorm": "norm",
}
DIFFUSERS = blocks(
    "encoder.layers",
    NORMS,
    ("self_attn.to_q", "self_attn.to_k", "self_attn.to_v", "self_attn.to_out"),
    ("mlp.up_proj", "mlp.down_proj"),
)
TOWER = {
    "embeddings.patch_embedding": "embed",
    "embeddings.position_embedding": "positions.table",
    **ENCODER,
    "head.probe": "pool.probe",
    "head.attention.in_proj_weight": "pool.qkv_weight",
    "head.attention.in_proj_bias": "pool.qkv_bias",
    "head.attention.out_proj": "pool.out",
    "head.layernorm": "pool.norm",
    "head.mlp.fc1": "pool.mlp.fc1",
    "head.mlp.fc2": "pool.mlp.fc2",
}


def tower(vision: Mapping[str, Any], stored: frozenset[str], source: str, projector: Projector) -> Architecture:
    """The architecture of a SigLIP2 tower; the attention head is read only where it is stored."""
    only(vision, "num_channels", (3,), source)
    only(vision, "rope_parameters", (None,), source)
    side = square_side(vision["num_patches"], "num_patches", source)
    return architecture(
        source,
        width=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        patch_size=vision["patch_size"],
        positions=Positions((side, side)),
        activation=vision["hidden_act"],
        norm_eps=vision["layer_norm_eps"],
        pooling="map" if "pool.probe" in stored else "mean",
        projector=projector,
    )


def _lfm2(config: Config, stored: frozenset[str], source: str) -> Architecture:
    values = Values(config, source, "config.json", "Lfm2VlConfig")
    only(config, "projector_hidden_act", ("gelu",), source)
    projector = Projector(
        text_width(config, source),
        hidden=int(values.number("projector_hidden_size", 2560)),
        merge=int(values.number("downsample_factor", 2)),
        norm="block" if values.flag("projector_use_layernorm", True) else "none",
        norm_eps=1e-5,
        bias=values.flag("projector_bias", True),
    )
    return tower(vision_settings(config, VISION_DEFAULTS, source), stored, source, projector)


def _phi4(config: Config, stored: frozenset[str], source: str) -> Architecture:
    only(config, "mm_projector_type", ("mlp2x_gelu",), source)
    width = text_width(config, source)
    # The language model takes the hidden state before the last block, without the final norm.
    projector = Projector(width, hidden=width, norm="none", source="tokens:-2")
    return tower(vision_settings(config, VISION_DEFAULTS, source), stored, source, projector)


def _cosmos3(config: Config, stored: frozenset[str], source: str) -> Architecture:
    defaults = VISION_DEFAULTS | {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "spatial_merge_size": 2,
    }
    vision = vision_settings(config, defaults, source)
    hidden = int(Values(config, source, "config.json", "Cosmos3EdgeConfig").number("projector_hidden_size", 11520))
    projector = Projector(text_width(config, source), hidden=hidden, merge=vision["spatial_merge_size"])
    return tower(vision, stored, source, projector)


def _isaac(config: Config, stored: frozenset[str], source: str) -> Architecture:
    vision = vision_settings(config, VISION_DEFAULTS | {"pixel_shuffle_scale_factor": 1}, source)
    merge = vision["pixel_shuffle_scale_factor"]
    hidden = 4 * vision["hidden_size"] * merge**2
    projector = Projector(
        text_width(config, source), hidden=hidden, merge=merge, norm="none", activation="silu", bias=False
    )
    return tower(vision, stored, source, projector)


LFM2_VL = Family(
    title="LFM2-VL",
    model_types=("lfm2_vl",),
    names={
        **below(("vision_tower", "vision_tower.vision_model"), TOWER),
        **layers(
            "multi_modal_projector.linear_1", "multi_modal_projector.linear_2", "multi_modal_projector.layer_norm"
        ),
    },
    architecture=_lfm2,
)
PHI4_REASONING_VISION = Family(
    title="Phi-4-reasoning-vision",
    model_types=("phi4-siglip",),
    names={
        **below(("vision_tower.vision_tower", "vision_tower.vision_tower.vision_model"), TOWER),
        **layers("mm_projector.0", "mm_projector.2"),
    },
    architecture=_phi4,
)
COSMOS3_EDGE = Family(
    title="Cosmos3-Edge",
    model_types=("cosmos3_edge",),
    names={
        **below(("visual", "visual.vision_model"), TOWER),
        **below(("visual",), DIFFUSERS),  # in which later checkpoints are written
        **layers("projector.linear_fc1", "projector.linear_fc2", "projector.norm"),
    },
    architecture=_cosmos3,
)
ISAAC = Family(
    title="Isaac",
    model_types=("isaac",),
    names={
        **below(("vision_embedding.0",), TOWER),
        **layers("vision_embedding.1", "vision_embedding.3"),
    },
    architecture=_isaac,
)
