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
OTHERS = {
    "embedding_gemma2": "Gemma's tower has RMSNorm, gated MLPs and norms after attention",
    "gemma4": "Gemma's tower has RMSNorm, gated MLPs and norms after attention",
    "gemma4_unified": "Gemma's tower has RMSNorm, gated MLPs and norms after attention",
    "glm46v": "GLM's tower has RMSNorm, gated MLPs and a convolution that merges tokens",
    "glm4v": "GLM's tower has RMSNorm, gated MLPs and a convolution that merges tokens",
    "glm4v_moe": "GLM's tower has RMSNorm, gated MLPs and a convolution that merges tokens",
    "granite_docling": f"its tower {FIXED}",
    "idefics3": f"its tower {FIXED}",
    "lfm3_vl": "LFM3's tower mixes convolutions with attention of shared key and value heads",
    "minicpmv4_6": "its tower merges tokens by attention inside windows, between its blocks",
    "mistral3": "Pixtral's tower has RMSNorm and gated MLPs",
    "molmo2": "its tower pools tokens by attention over crops",
    "ovis2": "its tower has RMSNorm and gated MLPs, and gives visual words",
    "ovis2_5": "its tower attends in windows, and gives visual words",
    "phi4_multimodal": f"its tower {FIXED}",
    "pixtral": "Pixtral's tower has RMSNorm and gated MLPs",
    "qwen2_5_vl": "its tower has RMSNorm and gated MLPs, and attends in windows",
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
    """Refuse a model that is known to have another kind of tower.

    Raises:
        CheckpointError: It has; says what differs.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in OTHERS:
        raise CheckpointError(
            f"{source}: models of type '{kind}' are not supported: {OTHERS[kind]}",
            hint=f"towers that are read: {', '.join(family.title for family in FAMILIES)}",
        )
