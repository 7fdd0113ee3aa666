"""Replaces the vision tower of a vision-language model by an engine, without changing the rest of the model.

    python examples/replace_vision_tower.py [DIRECTORY]

DIRECTORY holds an LFM2-VL as saved by transformers; without it, a narrow model with random weights is used. The model
runs on the same images with its own tower and with the engine, and the largest differences are printed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

import naflex_deploy as nd
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.engine import Engine

SETTINGS = ["outputs=['tokens']", "image.tokens=1024", "image.multiple=2", "engine.onnxruntime.budgets=[1024, 4096]"]


class EngineTower(nn.Module):
    """An engine with the interface of `Siglip2VisionModel`, which takes padded patches and returns padded tokens."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    def forward(
        self, pixel_values: Tensor, spatial_shapes: Tensor, pixel_attention_mask: Tensor, **_: Any
    ) -> BaseModelOutputWithPooling:
        # The processor normalises uint8 pixels to x / 127.5 - 1, but the engine takes raw pixels.
        raw = ((pixel_values.float() + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        grids = [(int(h), int(w)) for h, w in spatial_shapes.tolist()]
        images = [Patches(pixels[: h * w], (h, w)) for pixels, (h, w) in zip(raw, grids, strict=True)]
        tokens = [torch.from_numpy(grid).flatten(0, 1) for grid in self.engine.tokens(images)]
        padded = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return BaseModelOutputWithPooling(last_hidden_state=padded.to(pixel_values.device, pixel_values.dtype))


def replace_tower(model: Lfm2VlForConditionalGeneration, bundle: Path) -> None:
    """Build an engine from the model's vision tower, and replace the tower by it."""
    nd.build("photo", model.model.vision_tower, bundle, settings=[*SETTINGS, "engine.backends=['onnxruntime']"])
    model.model.vision_tower = EngineTower(nd.load(bundle))


def prepare(
    model: Lfm2VlForConditionalGeneration, images: Sequence[np.ndarray], prompt: Sequence[int]
) -> dict[str, Tensor]:
    """Prepare [h, w, 3] uint8 images, with sides of an even number of patches, as the model's processor does."""
    config = model.config
    side, factor = config.vision_config.patch_size, config.downsample_factor
    grids = [(image.shape[0] // side, image.shape[1] // side) for image in images]
    patches = [torch.from_numpy(image).unfold(0, side, side).unfold(1, side, side) for image in images]
    rows = [grid.permute(0, 1, 3, 4, 2).flatten(2).flatten(0, 1).float() / 127.5 - 1 for grid in patches]
    placeholders = sum(h * w for h, w in grids) // factor**2
    return {
        "input_ids": torch.tensor([[*prompt, *([config.image_token_id] * placeholders), *prompt]]),
        "pixel_values": nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "spatial_shapes": torch.tensor(grids),
        "pixel_attention_mask": nn.utils.rnn.pad_sequence([torch.ones(len(row)).long() for row in rows], True),
    }


def narrow_model() -> Lfm2VlForConditionalGeneration:
    """A model of the real classes with few channels and seeded random weights."""
    torch.manual_seed(0)
    config = Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "lfm2",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 500,
            "layer_types": ["conv", "full_attention"],
        },
        projector_hidden_size=64,
    )
    return Lfm2VlForConditionalGeneration(config).eval()


@torch.inference_mode()
def run(model: Lfm2VlForConditionalGeneration, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model and return each stage's outputs: tokens of the tower, image features, logits, and an answer."""
    pixels = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    lengths = inputs["pixel_attention_mask"].sum(1).tolist()
    padded = model.model.vision_tower(**pixels).last_hidden_state
    features = model.get_image_features(**pixels).pooler_output
    return {
        "tokens": torch.cat([tokens[:length] for tokens, length in zip(padded, lengths, strict=True)]),
        "features": torch.cat(list(features)),
        "logits": model(**inputs).logits,
        "answer": model.generate(**inputs, max_new_tokens=8, do_sample=False),
    }


def compare(model: Lfm2VlForConditionalGeneration, bundle: Path) -> dict[str, float]:
    """The error of each stage, max |Δ| / max |reference|, after the tower was replaced by an engine."""
    generator = np.random.default_rng(0)
    side = 2 * model.config.vision_config.patch_size
    images = [generator.integers(0, 256, (side * h, side * w, 3), np.uint8) for h, w in ((3, 5), (1, 8), (6, 4))]
    inputs = prepare(model, images, prompt=[1, 17, 42])
    expected = run(model, inputs)
    replace_tower(model, bundle)
    found = run(model, inputs)
    return {
        name: float((found[name] - reference).abs().max() / reference.abs().max())
        for name, reference in expected.items()
    }


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    vlm = Lfm2VlForConditionalGeneration.from_pretrained(sys.argv[1]).eval() if sys.argv[1:] else narrow_model()
    with tempfile.TemporaryDirectory() as folder:
        for stage, error in compare(vlm, Path(folder) / "bundle").items():
            print(f"{stage}: max |Δ| is {error:.1e} of max |reference|")
