"""What the classes of transformers give for the image tower of a vision-language model, which is loaded whole.

It is fed by its image processor of Pillow, or by torchvision's where it has no other. Nothing of this package is
imported but what says why an original cannot be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

from naflex_deploy.compiler.witness.original import NoOriginal, first_line

IN_BLOCKS = (
    "cohere_compass",
    "cosmos3_edge",
    "cosmos3_omni",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_omni_moe_thinker",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen4_exp",
)
"""Models whose tower gives its tokens block by block."""
BY_TORCHVISION = ("kimi_k25", "lfm2_vl")
"""Models whose image processor has no class of Pillow's."""
LARGEST = 8 * 10**9
"""Bytes of weights that are loaded for a comparison: those of a larger model would take longer than the build."""


def is_tower(config: Mapping[str, Any]) -> bool:
    """Whether a config is of a larger model that has an image tower."""
    part = config.get("thinker_config", config)  # where Qwen3-Omni has it
    return isinstance(part.get("vision_config"), Mapping) and config.get("model_type") != "siglip2"


def run(
    transformers: Any, config: Mapping[str, Any], request: Mapping[str, Any], images: Sequence[Any]
) -> tuple[str, dict[str, Any]]:
    """Name of the class, and its outputs by image.

    Raises:
        NoOriginal: The model is not loaded, or its images are not prepared; says why.
    """
    import torch
    from PIL import Image

    path = Path(request["path"])
    hidden = [name for name in request["outputs"] if name.startswith("tokens:")]
    if hidden:
        raise NoOriginal(f"{hidden[0]} of a vision-language model is not compared")
    if request["lora"]:
        raise NoOriginal("a vision-language model with an adapter is not compared")
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if size > LARGEST:
        raise NoOriginal(f"the whole model has {size / 1e9:.1f} GB of weights, more than are loaded for a comparison")
    name = next(iter(config.get("architectures") or ()), "")
    try:
        kind = getattr(transformers, name, None)
    except ImportError as error:
        raise NoOriginal(f"transformers does not import '{name}': {first_line(error)}") from None
    if kind is None:
        raise NoOriginal(f"transformers {transformers.__version__} has no class '{name}'")
    try:
        backend = "torchvision" if config["model_type"] in BY_TORCHVISION else "pil"
        processor = transformers.AutoImageProcessor.from_pretrained(path, backend=backend)
    except Exception as error:
        raise NoOriginal(f"AutoImageProcessor of transformers does not load it: {first_line(error)}") from None
    try:
        model = kind.from_pretrained(path, dtype=torch.float32).eval()
    except Exception as error:
        raise NoOriginal(f"{name} of transformers does not load it: {first_line(error)}") from None
    inputs = processor(images=[Image.fromarray(pixels) for pixels in images], return_tensors="pt")
    with torch.inference_mode():
        found = model.model.get_image_features(**inputs)
    taps = {f"deepstack:{k}": tap for k, tap in enumerate(getattr(found, "deepstack_features", None) or ())}
    if "spatial_shapes" in inputs:
        grids = inputs["spatial_shapes"].tolist()
        states = [rows[: h * w] for rows, (h, w) in zip(found.last_hidden_state, grids, strict=True)]
    else:
        grids = inputs["image_grid_thw"][:, 1:].tolist()
        states = found.last_hidden_state.flatten(0, -2).split([h * w for h, w in grids])
    results: dict[str, Any] = {}
    for index, (tokens, (h, w), projected) in enumerate(zip(states, grids, found.pooler_output, strict=True)):
        if config["model_type"] in IN_BLOCKS:
            side = isqrt(h * w // len(projected))
            tokens = tokens.view(h // side, w // side, side, side, -1).transpose(1, 2).flatten(0, 3)
        results |= {f"tokens/{index}": tokens, f"pooled/{index}": tokens.mean(0), f"vlm/{index}": projected}
        results |= {f"{key}/{index}": tap[index] for key, tap in taps.items()}
    return f"{name} of transformers {transformers.__version__}", results
