"""How a checkpoint sizes the frames of clips: the settings of its video processor, as transformers 5.23 reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naflex_deploy.compiler.checkpoints.files.choice import PROCESSOR_CONFIG, VIDEO_CONFIG
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.core.sizing import SmartResize

KIND = "Qwen3VLVideoProcessor"
NESTED = "video_processor"
MODEL_TYPES = ("cosmos3_omni", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp")
FEWEST, MOST = 128 * 32 * 32, 768 * 32 * 32
"""Of the class, in pixels of all frames."""


def read_clip(directory: Path | None, config: Mapping[str, Any], source: str) -> SmartResize | None:
    """The sizes of frames of clips; ``None`` for a model, or a processor, whose clips are not read in pairs.

    Raises:
        CheckpointError: A value is of another type.
    """
    if directory is None or config.get("model_type") not in MODEL_TYPES:
        return None
    nested = load_json(directory / PROCESSOR_CONFIG, source, required=False).get(NESTED)
    own = nested if isinstance(nested, dict) else load_json(directory / VIDEO_CONFIG, source, required=False)
    if own.get("video_processor_type", KIND) != KIND or own.get("cap_pixels_per_frame"):
        return None
    values = Values(own, source, VIDEO_CONFIG, KIND)
    size = own.get("size") or {"shortest_edge": FEWEST, "longest_edge": MOST}
    if not isinstance(size, dict) or not {"shortest_edge", "longest_edge"} <= set(size):
        raise values.wrong("size", "shortest_edge and longest_edge, in pixels of all frames")
    sides = Values(size, source, f"{VIDEO_CONFIG}: size", KIND)
    fewest, most = sides.integer("shortest_edge", FEWEST), sides.integer("longest_edge", MOST)
    return SmartResize(min_pixels=fewest, max_pixels=most, short="scale")
