"""PaddleOCR-VL and VideoLLaMA3: SigLIP's blocks with rotary positions."""

from __future__ import annotations

from typing import Any

from naflex_deploy.compiler.checkpoints.families.family import Config, Family, below, layers
from naflex_deploy.compiler.checkpoints.families.settings import (
    architecture,
    axial_rope,
    only,
    text_width,
    vision_settings,
)
from naflex_deploy.compiler.checkpoints.families.siglip2 import ENCODER, TOWER
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Projector

DEFAULTS: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def _tower(vision: dict[str, Any], source: str, positions: Positions | None, projector: Projector) -> Architecture:
    only(vision, "num_channels", (3,), source)
    return architecture(
        source,
        width=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        patch_size=vision["patch_size"],
        positions=positions,
        activation=vision["hidden_act"],
        norm_eps=vision["layer_norm_eps"],
        pooling="mean",
        rope=axial_rope(vision, source),
        projector=projector,
    )


def _paddleocr(config: Config, stored: frozenset[str], source: str) -> Architecture:
    vision = vision_settings(config, DEFAULTS | {"image_size": 384, "spatial_merge_size": 2}, source)
    side, merge = vision["image_size"] // vision["patch_size"], vision["spatial_merge_size"]
    projector = Projector(
        text_width(config, source), hidden=vision["hidden_size"] * merge**2, merge=merge, norm_eps=1e-5
    )
    return _tower(vision, source, Positions((side, side), antialias=False), projector)


def _videollama3(config: Config, stored: frozenset[str], source: str) -> Architecture:
    defaults = DEFAULTS | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
    }
    width = text_width(config, source)
    return _tower(vision_settings(config, defaults, source), source, None, Projector(width, hidden=width, norm="none"))


PADDLEOCR_VL = Family(
    title="PaddleOCR-VL",
    model_types=("paddleocr_vl",),
    names={
        **below(
            ("visual.vision_model",),
            {
                **{theirs: ours for theirs, ours in TOWER.items() if not theirs.startswith("head.")},
                "head.**": "",
                "embeddings.packing_position_embedding": "",
            },
        ),
        **below(("mlp_AR", "projector"), layers("linear_1", "linear_2", "pre_norm")),
    },
    architecture=_paddleocr,
)
VIDEOLLAMA3 = Family(
    title="VideoLLaMA3",
    model_types=("video_llama_3",),
    names={
        **below(("vision_model", "vision_encoder"), {"embeddings.patch_embedding": "embed", **ENCODER}),
        **layers("projector.readout.0", "projector.readout.2"),
    },
    architecture=_videollama3,
)
