"""Generates text with a language model of transformers whose images an engine encodes.

    python examples/feed_language_model.py DIRECTORY BUNDLE PROMPT IMAGE…

DIRECTORY holds a vision-language model as saved by transformers, and BUNDLE was built from it:

    naflex-deploy build --profile vlm --model DIRECTORY -o BUNDLE

The tower of the model is not run, so a machine that only generates need not load it. Every family works alike; what
differs is only where positions come from, and `inputs_for` gives each model all that it may ask for.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

import naflex_deploy as nd
from naflex_deploy.runtime.embedding.handover import encode_for_language_model
from naflex_deploy.runtime.results.handover import ImageTokens, check_placeholders

PIXELS = ("pixel_values", "pixel_attention_mask", "spatial_shapes", "image_merge_sizes")
"""What only the tower takes."""


def encoder_outputs(images: Sequence[ImageTokens]) -> dict[str, BaseModelOutputWithPooling]:
    """The tokens of images as transformers' ``mm_encoder_outputs`` takes them.

    This hands tokens over exactly. ``inputs_embeds`` with the tokens put in their places would lose what Qwen3-VL adds
    to its first blocks (DeepStack), and the positions of images.
    """
    parts = [torch.from_numpy(part) for image in images for part in image.parts]
    if not images[0].deepstack:
        return {"image": BaseModelOutputWithPooling(pooler_output=parts)}
    taps = zip(*(image.deepstack for image in images), strict=True)
    deepstack = [[torch.from_numpy(part) for parts in tap for part in parts] for tap in taps]
    return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=parts, deepstack_features=deepstack)}


def expand(prompt: Sequence[int], placeholder: int, images: Sequence[ImageTokens]) -> list[int]:
    """Repeat the placeholder of each part of an image once for each of its tokens.

    Args:
        prompt: Token ids with one placeholder for each part.
        placeholder: ``config.image_token_id``.
        images: In the order of the prompt.

    Raises:
        UsageError: The prompt has more or fewer placeholders than there are parts.
    """
    counts = iter([len(part) for image in images for part in image.parts])
    expanded = [token for token in prompt for _ in range(next(counts, 0) if token == placeholder else 1)]
    check_placeholders(expanded.count(placeholder) if prompt.count(placeholder) == _parts(images) else 0, images)
    return expanded


def inputs_for(model: Any, ids: Sequence[int], images: Sequence[ImageTokens]) -> dict[str, Any]:
    """What ``generate`` takes for an expanded prompt.

    Models that give images positions of their own (Qwen3-VL, Qwen3.5, Qwen3-Omni, PaddleOCR-VL, Cosmos3-Edge) need the
    grids, and all but Qwen3-Omni the kind of each token. Without them, some silently take the positions of text.
    """
    check_placeholders(ids.count(model.config.image_token_id), images)
    tokens = torch.tensor([ids])
    found: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    found["mm_encoder_outputs"] = encoder_outputs(images)
    asked_for = inspect.signature(model.forward).parameters
    if "image_grid_thw" in asked_for:
        found["image_grid_thw"] = torch.cat([torch.from_numpy(image.grid_thw) for image in images])
    if "mm_token_type_ids" in asked_for:
        found["mm_token_type_ids"] = (tokens == model.config.image_token_id).int()
    return found


def _parts(images: Sequence[ImageTokens]) -> int:
    return sum(len(image.parts) for image in images)


def main(directory: str, bundle: str, prompt: str, *files: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(directory).eval()
    processor = AutoProcessor.from_pretrained(directory)
    images = encode_for_language_model(nd.load(bundle), list(files))
    content = [*({"type": "image", "path": file} for file in files), {"type": "text", "text": prompt}]
    # The processor lays out the prompt. Its grids are those of the engine, and its pixels are not used.
    ready = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    inputs = inputs_for(model, ready["input_ids"][0].tolist(), images)
    kept = {name: values for name, values in ready.items() if name not in (*PIXELS, *inputs)}
    answer = model.generate(**kept, **inputs, max_new_tokens=200)
    print(processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])


if __name__ == "__main__":
    with torch.inference_mode():
        main(*sys.argv[1:])
