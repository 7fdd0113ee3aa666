"""Tiny vision-language models of the real transformers classes, saved whole, and what their image towers give."""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from naflex_deploy.compiler.checkpoints.files.choice import PREPROCESSOR_CONFIG
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.compiler.pipeline import build_bundle
from naflex_deploy.core.config import resolve
from naflex_deploy.core.pack import Pack, Patches, in_blocks
from tests.support.families import HALF, PROCESSORS
from tests.support.packs import inputs
from tests.support.shared import once
from tests.support.weights import reseed

GRIDS = ((2, 26), (30, 2), (16, 14), (4, 6))
"""Two rows, two columns, above the size of the position tables, below it."""
TEXT_WIDTH = 64
TEXT = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 50,
}
ROTARY_TEXT = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}}
LINEAR_TEXT = TEXT | {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
COHERE_TEXT = TEXT | {
    "layer_types": ["full_attention"],
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}},
}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 2, "num_experts_per_tok": 1}
AUDIO = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "output_dim": TEXT_WIDTH,
    "downsample_hidden_size": 8,
}
DEEPSEEK_TEXT = {
    "model_type": "deepseek_v3",
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 64,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_experts_per_tok": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
BLOCKS = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 4}
QWEN = {
    "depth": 3,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_heads": 4,
    "num_position_embeddings": 144,
    "out_hidden_size": TEXT_WIDTH,
}
QWEN3 = QWEN | {"deepstack_visual_indexes": [0, 1]}


@dataclass(frozen=True)
class Vlm:
    """A family in small.

    Attributes:
        title: Of the family, as the reader knows it.
        kind: The class in transformers.
        config: Its options.
        layout: Pixels of its patches: ``frames`` (channel, frame, y, x), ``conv`` (channel, y, x), or ``linear``
            (y, x, channel).
        in_blocks: Whether it takes patches, and gives tokens, in the order of 2×2 blocks.
        patch_size, merge: Of the tower.
        mean, std: Of the normalisation.
    """

    title: str
    kind: str
    config: Mapping[str, Any]
    layout: str
    in_blocks: bool
    patch_size: int = 16
    merge: int = 2

    def save(self, directory: Path, **vision: object) -> Path:
        """Save the whole model, with seeded weights under which attention is not uniform, and its image processor.

        Args:
            directory: To be made.
            vision: Options of the tower that differ.
        """
        kind = getattr(transformers, self.kind)
        config = copy.deepcopy(dict(self.config))
        config["vision_config"] |= vision
        model = kind(kind.config_class(**config))
        reseed(model, scale=0.5, gain=2.0).save_pretrained(directory)
        family = "qwen3_vl" if self.layout == "frames" else kind.config_class.model_type
        (directory / PREPROCESSOR_CONFIG).write_text(json.dumps(dict(PROCESSORS[family]) | HALF))
        return directory

    def load(self, directory: Path, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model as its class loads it."""
        loaded: nn.Module = getattr(transformers, self.kind).from_pretrained(directory, dtype=dtype)
        return loaded.eval()


VLMS = {
    vlm.kind.removesuffix("ForConditionalGeneration"): vlm
    for vlm in (
        Vlm(
            "Qwen3-VL",
            "Qwen3VLForConditionalGeneration",
            {"text_config": ROTARY_TEXT, "vision_config": QWEN3},
            "frames",
            True,
        ),
        Vlm(
            "Qwen3-VL",
            "Qwen3VLMoeForConditionalGeneration",
            {"text_config": ROTARY_TEXT | EXPERTS, "vision_config": QWEN3},
            "frames",
            True,
        ),
        Vlm(
            "Qwen3-Omni",
            "Qwen3OmniMoeThinkerForConditionalGeneration",
            {"text_config": ROTARY_TEXT | EXPERTS, "vision_config": QWEN3, "audio_config": AUDIO},
            "frames",
            True,
        ),
        Vlm(
            "Qwen3.5",
            "Qwen3_5ForConditionalGeneration",
            {"text_config": LINEAR_TEXT, "vision_config": QWEN},
            "frames",
            True,
        ),
        Vlm(
            "Qwen3.5",
            "Qwen3_5MoeForConditionalGeneration",
            {
                "text_config": LINEAR_TEXT | EXPERTS | {"shared_expert_intermediate_size": 8},
                "vision_config": QWEN,
            },
            "frames",
            True,
        ),
        Vlm(
            "Qwen4-Exp",
            "Qwen4ExpForConditionalGeneration",
            {
                "text_config": LINEAR_TEXT | EXPERTS | {"shared_expert_intermediate_size": 8},
                "vision_config": QWEN,
            },
            "frames",
            True,
        ),
        Vlm(
            "Cosmos3-Omni",
            "Cosmos3OmniForConditionalGeneration",
            {"text_config": ROTARY_TEXT, "vision_config": QWEN3},
            "frames",
            True,
        ),
        Vlm(
            "Cohere Compass",
            "CohereCompassForConditionalGeneration",
            {"text_config": COHERE_TEXT, "vision_config": QWEN3},
            "frames",
            True,
        ),
        Vlm(
            "Cosmos3-Edge",
            "Cosmos3EdgeForConditionalGeneration",
            {
                "text_config": ROTARY_TEXT,
                "vision_config": BLOCKS | {"num_patches": 144},
                "projector_hidden_size": 80,
            },
            "linear",
            True,
        ),
        Vlm(
            "PaddleOCR-VL",
            "PaddleOCRVLForConditionalGeneration",
            {"text_config": ROTARY_TEXT, "vision_config": BLOCKS | {"image_size": 9 * 14}},
            "conv",
            False,
            patch_size=14,
        ),
        Vlm(
            "Kimi K2.5",
            "Kimi_K25ForConditionalGeneration",
            {
                "text_config": DEEPSEEK_TEXT,
                "vision_config": BLOCKS | {"pos_emb_height": 12, "pos_emb_width": 12},
                "projection_hidden_size": 96,
            },
            "conv",
            False,
            patch_size=14,
        ),
        Vlm(
            "VideoLLaMA3",
            "VideoLlama3ForConditionalGeneration",
            {"text_config": TEXT | {"model_type": "qwen2"}, "vision_config": BLOCKS | {"patch_size": 14}},
            "conv",
            False,
            patch_size=14,
            merge=1,
        ),
        Vlm(
            "LFM2-VL",
            "Lfm2VlForConditionalGeneration",
            {
                "text_config": TEXT | {"model_type": "lfm2", "layer_types": ["full_attention"]},
                "vision_config": BLOCKS
                | {"model_type": "siglip2_vision_model", "num_patches": 144, "vision_use_head": False},
                "projector_hidden_size": 80,
            },
            "linear",
            False,
        ),
    )
}


def saved(name: str) -> Path:
    """The directory of a whole model of `VLMS`, saved once a run of the tests. Not to be changed."""
    return once(f"vlm-{name}", lambda folder: VLMS[name].save(folder / "model")) / "model"


SAME_TOWERS = ("Qwen3VLMoe", "Qwen3OmniMoeThinker", "Qwen3_5Moe", "Qwen4Exp", "Cosmos3Omni", "CohereCompass")
"""Those whose towers compute what the class of another one does."""
CASES = [pytest.param(name, marks=pytest.mark.exhaustive) if name in SAME_TOWERS else name for name in VLMS]


def expected(vlm: Vlm, model: Any, images: Sequence[Patches], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """What the model's own class gives for patches, image after image: ``tokens`` in raster order, ``vlm``, and
    ``deepstack:K``."""
    grids = [image.grid_hw for image in images]
    patches = [((torch.from_numpy(image.pixels).double() / 255 - 0.5) / 0.5).to(dtype) for image in images]
    with torch.inference_mode():
        if vlm.title == "LFM2-VL":
            found = model.model.get_image_features(**_padded(patches, grids))
            tokens = torch.cat([row[: len(rows)] for row, rows in zip(found.last_hidden_state, patches, strict=True)])
            return {"tokens": tokens, "vlm": torch.cat(list(found.pooler_output))}
        orders = [block_order(h, w) if vlm.in_blocks else torch.arange(h * w) for h, w in grids]
        pixels = torch.cat(
            [LAYOUTS[vlm.layout](rows[order], vlm.patch_size) for rows, order in zip(patches, orders, strict=True)]
        )
        options = {"image_grid_thw": torch.tensor([(1, h, w) for h, w in grids])}
        if vlm.title == "VideoLLaMA3":
            options["image_merge_sizes"] = torch.ones(len(grids), dtype=torch.long)
        found = model.model.get_image_features(pixels, **options)
    parts = found.last_hidden_state.flatten(0, -2).split([h * w for h, w in grids])
    results = {
        "tokens": torch.cat([part[order.argsort()] for part, order in zip(parts, orders, strict=True)]),
        "vlm": torch.cat(list(found.pooler_output)),
    }
    for index, tap in enumerate(getattr(found, "deepstack_features", None) or ()):
        results[f"deepstack:{index}"] = torch.cat(list(tap))
    return results


def outputs_of(model: PackedNaFlexViT, images: Sequence[Patches], tail: int = 3) -> dict[str, Tensor]:
    """The outputs of a packed model for a pack with a tail, without what belongs to the tail."""
    length = sum(map(len, images))
    with torch.inference_mode():
        found = model(*inputs(model, Pack.of(images, tokens=length + tail)))
    block = model.architecture.merge**2
    return {name: values[: length // block if in_blocks(name) else length] for name, values in found.items()}


def block_order(h: int, w: int, side: int = 2) -> Tensor:
    """Raster index of each patch in the order of blocks."""
    return torch.arange(h * w).view(h // side, side, w // side, side).transpose(1, 2).flatten()


LAYOUTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "linear": lambda rows, p: rows,
    "conv": lambda rows, p: rows.view(-1, p, p, 3).permute(0, 3, 1, 2),
    "frames": lambda rows, p: (
        rows.view(-1, p, p, 3).permute(0, 3, 1, 2).unsqueeze(2).expand(-1, -1, 2, -1, -1).reshape(len(rows), -1)
    ),
}


def _padded(patches: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    longest = max(map(len, patches))
    pixels = torch.zeros(len(patches), longest, patches[0].shape[1], dtype=patches[0].dtype)
    mask = torch.zeros(len(patches), longest, dtype=torch.int32)
    for row, part in enumerate(patches):
        pixels[row, : len(part)] = part
        mask[row, : len(part)] = 1
    return {"pixel_values": pixels, "spatial_shapes": torch.tensor(grids), "pixel_attention_mask": mask}


SETTINGS = (
    "outputs=['tokens', 'vlm', 'deepstack:0', 'deepstack:1', 'pooled']",
    "image.tokens=128",
    "image.fit=shrink-only",
    "engine.onnxruntime.budgets=[64, 256]",
    "engine.backends=['onnxruntime']",
    "engine.precision=fp32",
    "packing.max_images=8",
)


@pytest.fixture(scope="session")
def vlm_directory() -> Path:
    """The directory of a whole Qwen3-VL. Not to be changed."""
    return once("vlm", lambda folder: VLMS["Qwen3VL"].save(folder / "model", depth=2)) / "model"


@pytest.fixture(scope="session")
def vlm_bundle(vlm_directory: Path) -> Path:
    """A bundle of its tower with every output for a language model. Not to be changed."""
    config = resolve("photo", settings=SETTINGS, environment={})
    return once("vlm-bundle", lambda folder: build_bundle(config, vlm_directory, folder / "bundle")) / "bundle"
