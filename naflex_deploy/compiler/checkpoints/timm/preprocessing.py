"""How a timm checkpoint wants its pixels, as ``timm.data.resolve_model_data_config`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from naflex_deploy.compiler.checkpoints.timm.architectures import Registered
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.core.preprocessing import Preprocessing

FILTERS: dict[object, Literal["bilinear", "bicubic"]] = {"bilinear": "bilinear", "bicubic": "bicubic"}


def read_pixels(
    pretrained: Mapping[str, Any], default: Registered, config: TimmConfig, source: str, place: str
) -> tuple[Preprocessing, dict[str, str]]:
    """What timm's evaluation transform does with pixels, and where each value was found.

    Args:
        pretrained: The ``pretrained_cfg``.
        default: Mean and deviation where it gives none.
        config: The model's options.
        source: For messages.
        place: Where ``pretrained`` stands.

    Raises:
        CheckpointError: A value has no counterpart here.
    """
    values = Values(pretrained, source, place, "timm")
    resample = pretrained.get("interpolation") or "bicubic"
    if not isinstance(resample, str) or resample not in FILTERS:
        raise values.wrong("interpolation", " or ".join(repr(name) for name in FILTERS))
    channels = config.in_chans
    mean, std = (
        values.per_channel(name, given, channels) for name, given in (("mean", default.mean), ("std", default.std))
    )
    if min(std) <= 0:
        raise values.wrong("std", "positive numbers")
    if channels == 1:
        mean, std = mean * 3, std * 3
    preprocessing = Preprocessing(
        patch_size=config.patch_size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        resample=FILTERS[resample],
        channels=1 if channels == 1 else 3,
    )
    return preprocessing, {
        "patch_size": "model_args, or the architecture's default",
        "mean": values.origin("mean"),
        "std": values.origin("std"),
        "resample": values.origin("interpolation"),
        "channels": "model_args, or the architecture's default",
        "search": "as timm has it",
    }
