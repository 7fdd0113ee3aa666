"""The families that are read, and those that are known to need blocks of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from naflex_deploy.compiler.checkpoints.families import moonvit, qwen, rotary_siglip, siglip2
from naflex_deploy.compiler.checkpoints.families.family import Family
from naflex_deploy.core.errors import CheckpointError

FAMILIES = (
    siglip2.LFM2_VL,
    siglip2.PHI4_REASONING_VISION,
    siglip2.COSMOS3_EDGE,
    siglip2.ISAAC,
    qwen.QWEN3_VL,
    qwen.QWEN3_OMNI,
    qwen.COLQWEN3,
    qwen.COSMOS3_OMNI,
    qwen.COHERE_COMPASS,
    qwen.QWEN3_5,
    qwen.QWEN4_EXP,
    rotary_siglip.PADDLEOCR_VL,
    rotary_siglip.VIDEOLLAMA3,
    moonvit.KIMI_K2,
    moonvit.KIMI_VL,
)

FIXED = "cuts every image into tiles of one size, which need no packing"
GEMMA = "Gemma's tower has RMSNorm, gated MLPs and norms after attention"
GLM = "GLM's tower has RMSNorm, gated MLPs and a convolution that merges tokens"
INKLING2 = "its tower has a class token beside tokens that are merged, and pads images with a value below black"
MINICPM = "its tower merges tokens by attention inside windows, between its blocks"
QWEN2_5 = "its tower has RMSNorm and gated MLPs, and attends in windows"
OTHERS = {
    "dots3_note": "its tower has RMSNorm and gated MLPs",
    "embedding_gemma2": GEMMA,
    "ernie4_5_vl_moe": "its tower has an activation of its own, QuickGELU",
    "exaone4_5": "its tower has RMSNorm and shared key and value heads, and attends in windows",
    "gemma4": GEMMA,
    "gemma4_unified": GEMMA,
    "glm46v": GLM,
    "glm4v": GLM,
    "glm4v_moe": GLM,
    "glm5_next": GLM,
    "glm_ocr": GLM,
    "granite4_vision": f"its tower {FIXED}",
    "granite_docling": f"its tower {FIXED}",
    "hunyuan_vl": "its tower merges tokens by convolutions",
    "hy_v4_vl": "its tower merges tokens by convolutions",
    "hyperclovax_vision_v2": QWEN2_5,
    "idefics3": f"its tower {FIXED}",
    "inkling2": INKLING2,
    "inkling2_loop": INKLING2,
    "inkling_mm_model": "its tower has no attention, and so nothing that packing makes faster",
    "lfm3_vl": "LFM3's tower mixes convolutions with attention of shared key and value heads",
    "minicpm_ocr": MINICPM,
    "minicpmv4_6": MINICPM,
    "minicpmv4_7": MINICPM,
    "minimax_m3_vl": "its rotary embedding turns a third of each head by each of time, row and column",
    "mistral3": "Pixtral's tower has RMSNorm and gated MLPs",
    "molmo2": "its tower pools tokens by attention over crops",
    "muse_glimmer": "its tower attends in windows",
    "muse_spark": "its tower attends in windows",
    "ovis2": "its tower has RMSNorm and gated MLPs, and gives visual words",
    "ovis2_5": "its tower attends in windows, and gives visual words",
    "phi4_multimodal": f"its tower {FIXED}",
    "pixtral": "Pixtral's tower has RMSNorm and gated MLPs",
    "qwen2_5_omni": QWEN2_5,
    "qwen2_5_vl": QWEN2_5,
    "qwen2_vl": "its tower has an activation of its own, QuickGELU",
    "smolvlm": f"its tower {FIXED}",
    "step3p7": "its tower merges tokens by convolutions",
}
"""``model_type`` of other models with image towers → what keeps them from being read."""


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family that a config is of; ``None`` for another kind of model."""
    kind = config.get("model_type")
    return next((family for family in FAMILIES if kind in family.model_types), None)


def wanted_of(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Which stored tensors of a model are read: those of its image tower, or all of a model that is one."""
    family = family_of(config)
    return family.wants if family else lambda name: True


def refuse_others(config: Mapping[str, Any], source: str) -> None:
    """Refuse a model that is known to have another kind of tower, or whose tower is not known.

    Raises:
        CheckpointError: It has; says what differs.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or family_of(config) or kind.startswith("siglip"):
        return
    if kind in OTHERS or "vision_config" in config:
        why = OTHERS.get(kind, "nothing is known of their towers")
        raise CheckpointError(
            f"{source}: models of type '{kind}' are not supported: {why}",
            hint=f"towers that are read: {', '.join(family.title for family in FAMILIES)}",
        )
