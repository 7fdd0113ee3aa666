"""The NaFlexVit architectures that timm registers: options that differ from `TimmConfig`, and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Registered:
    """One name of timm's registry.

    Attributes:
        options: That differ from timm's defaults.
        classes: Of the classifier that the name stands for, 0 for none.
        mean, std: Of the pixels, on a scale of 0…1.
    """

    options: dict[str, Any]
    classes: int = 0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = field(default=(0.5, 0.5, 0.5))


def _average(**options: Any) -> Registered:
    shared = {"init_values": 1e-5, "global_pool": "avg", "reg_tokens": 4, "fc_norm": True}
    return Registered(shared | options, classes=1000)


def _so150m2(**options: Any) -> Registered:
    shape = {"embed_dim": 832, "depth": 21, "num_heads": 13, "mlp_ratio": 34 / 13}
    return Registered(shape | {"init_values": 1e-5, "qkv_bias": False, "reg_tokens": 1} | options, classes=1000)


def _siglip(**options: Any) -> Registered:
    return Registered({"act_layer": "gelu_tanh", "global_pool": "map", "pos_embed_interp_mode": "bilinear"} | options)


def _radio(width: int, depth: int, heads: int, registers: int, **options: Any) -> Registered:
    shared = {
        "class_token": True,
        "global_pool": "token",
        "final_norm": False,
        "pos_embed_grid_size": (128, 128),
        "pos_embed_interp_mode": "bilinear",
        "pos_embed_ar_preserving": True,
        "pos_embed_antialias": False,
    }
    shape = {"embed_dim": width, "depth": depth, "num_heads": heads, "reg_tokens": registers}
    return Registered(shared | shape | options, mean=CLIP_MEAN, std=CLIP_STD)


ARCHITECTURES: dict[str, Registered] = {
    "naflexvit_base_patch16_gap": _average(),
    "naflexvit_base_patch16_par_gap": _average(pos_embed_ar_preserving=True),
    "naflexvit_base_patch16_parfac_gap": _average(pos_embed_ar_preserving=True, pos_embed="factorized"),
    "naflexvit_base_patch16_map": Registered({"init_values": 1e-5, "global_pool": "map", "reg_tokens": 1}, 1000),
    "naflexvit_so150m2_patch16_reg1_gap": _so150m2(global_pool="avg", fc_norm=True),
    "naflexvit_so150m2_patch16_reg1_map": _so150m2(global_pool="map"),
    "naflexvit_base_patch16_siglip": _siglip(),
    "naflexvit_so400m_patch16_siglip": _siglip(embed_dim=1152, depth=27, num_heads=16, mlp_ratio=3.7362),
    "naflexvit_base_patch16_radio_v3": _radio(768, 12, 12, 7, init_values=1e-5, pos_embed_align_corners=True),
    "naflexvit_large_patch16_radio_v3": _radio(1024, 24, 16, 7, init_values=1e-5),
    "naflexvit_huge_patch16_radio_v3": _radio(1280, 32, 16, 7, pos_embed_align_corners=True),
    "naflexvit_giant_patch16_radio_v3": _radio(1536, 40, 24, 7),
    "naflexvit_so400m_patch16_radio_v4": _radio(1152, 27, 16, 9, mlp_ratio=4304 / 1152),
    "naflexvit_huge_patch16_radio_v4": _radio(1280, 32, 16, 9),
}
