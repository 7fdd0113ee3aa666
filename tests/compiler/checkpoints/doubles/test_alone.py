"""The towers by themselves, without our readers: names, isolation of images, the grid, and transformers' encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25VisionConfig
from transformers.models.kimi_k25.modeling_kimi_k25 import Kimi_K25VisionModel

from tests.compiler.checkpoints.doubles import isaac, kimi_vl, parts, phi4_reasoning_vision, siglip2
from tests.compiler.checkpoints.doubles.parts import Image, Outputs

# A name of each kind, spelled by hand from the sources that the modules name.
MODELS: dict[str, tuple[Callable[[Path], nn.Module], int, set[str]]] = {
    "phi-4": (
        phi4_reasoning_vision.make,
        phi4_reasoning_vision.PATCH_SIZE,
        {
            "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight",
            "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight",
            "model.vision_tower.vision_tower.vision_model.encoder.layers.2.self_attn.out_proj.bias",
            "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "model.vision_tower.vision_tower.vision_model.post_layernorm.weight",
            "model.vision_tower.vision_tower.vision_model.head.attention.in_proj_weight",
            "model.mm_projector.0.weight",
            "model.mm_projector.2.bias",
            "model.layers.0.self_attn.qkv_proj.weight",
        },
    ),
    "isaac-0.1": (
        lambda directory: isaac.make(directory, "0.1"),
        isaac.PATCH_SIZE,
        {
            "model.vision_embedding.0.embeddings.position_embedding.weight",
            "model.vision_embedding.0.encoder.layers.1.layer_norm2.weight",
            "model.vision_embedding.0.post_layernorm.bias",
            "model.vision_embedding.1.weight",
            "model.vision_embedding.3.weight",
            "model.embed_tokens.weight",
        },
    ),
    "isaac-0.2": (
        lambda directory: isaac.make(directory, "0.2"),
        isaac.PATCH_SIZE,
        {"model.vision_embedding.0.encoder.layers.0.self_attn.q_proj.weight", "model.text_model.embed_tokens.weight"},
    ),
    "kimi-vl": (
        kimi_vl.make,
        kimi_vl.PATCH_SIZE,
        {
            "vision_tower.patch_embed.proj.weight",
            "vision_tower.patch_embed.pos_emb.weight",
            "vision_tower.encoder.blocks.1.norm0.weight",
            "vision_tower.encoder.blocks.0.wqkv.bias",
            "vision_tower.encoder.blocks.0.wo.weight",
            "vision_tower.encoder.blocks.0.mlp.fc0.weight",
            "vision_tower.encoder.final_layernorm.weight",
            "multi_modal_projector.pre_norm.weight",
            "multi_modal_projector.linear_2.bias",
            "language_model.lm_head.weight",
        },
    ),
}


def pictures(patch: int, *grids: tuple[int, int]) -> list[Image]:
    """Return an image of random float64 pixels for each of `grids`."""
    generator = torch.Generator().manual_seed(7)
    return [
        Image(torch.randn(height * width, patch, patch, 3, generator=generator, dtype=torch.float64), (height, width))
        for height, width in grids
    ]


def different(one: Outputs, other: Outputs) -> bool:
    """Whether both kinds of tokens differ by more than a tenth of their largest value."""
    pairs = ((one.tokens, other.tokens), (one.projected, other.projected))
    return all((left - right).abs().max() > 0.1 * left.abs().max() for left, right in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_a_directory_holds_the_published_names(name: str, tmp_path: Path) -> None:
    make, _, names = MODELS[name]
    state = make(tmp_path).state_dict()
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert names <= set(stored.keys())
        assert set(state) < set(stored.keys())


@pytest.mark.parametrize("name", MODELS)
def test_images_are_apart_and_the_grid_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, patch, _ = MODELS[name]
    model = make(tmp_path).double()
    spreads: list[float] = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda logits, axis: (spreads.append(float(logits.std())), softmax(logits, axis))[1]
    )
    first, second = pictures(patch, (2, 6), (4, 4))
    with torch.no_grad():
        alone, pair = model([first]), model([second, first])
        turned = model([Image(first.patches, (6, 2))])
        changed = model([second, Image(-first.patches, first.grid)])
    torch.testing.assert_close(pair[1].tokens, alone[0].tokens, rtol=0, atol=0)
    torch.testing.assert_close(pair[0].projected, changed[0].projected, rtol=0, atol=0)
    assert different(alone[0], turned[0])
    assert different(alone[0], changed[1])
    assert min(spreads) > 2


def test_siglip2_is_that_of_transformers(tmp_path: Path) -> None:
    """Isaac and Phi-4 share an encoder; transformers, which has neither of them, has the class it comes from."""
    model = phi4_reasoning_vision.make(tmp_path)
    tower = model.model["vision_tower"]["vision_tower"]["vision_model"]
    original = Siglip2VisionModel(Siglip2VisionConfig(**phi4_reasoning_vision.CONFIG["vision_config"]))
    original.load_state_dict(tower.state_dict())
    image = pictures(phi4_reasoning_vision.PATCH_SIZE, (3, 18))[0]
    patches = image.patches.float()
    with torch.no_grad():
        expected = original.eval()(
            pixel_values=patches.flatten(1)[None],
            pixel_attention_mask=torch.ones(1, len(patches), dtype=torch.long),
            spatial_shapes=torch.tensor([image.grid]),
            output_hidden_states=True,
        )
        tokens = model([Image(patches, image.grid)])[0].tokens
        last = tower.post_layernorm(tower.hidden_states(Image(patches, image.grid))[-1])
    torch.testing.assert_close(tokens, expected.hidden_states[-2][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, expected.last_hidden_state[0], rtol=1e-4, atol=1e-4)


def test_moonvit_is_that_of_transformers(tmp_path: Path) -> None:
    """Kimi K2.5 took MoonViT over; transformers has it with the rotary pairs of a head as two halves."""
    model = kimi_vl.make(tmp_path)
    vision = kimi_vl.CONFIG["vision_config"]
    options = {name: vision[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size")}
    sides = {f"pos_emb_{side}": vision[f"init_pos_emb_{side}"] for side in ("height", "width")}
    heads = vision["num_attention_heads"]
    original = Kimi_K25VisionModel(Kimi_K25VisionConfig(**options, **sides, num_attention_heads=heads)).eval()
    renamed = {
        "encoder.blocks.": "layers.",
        "encoder.": "",
        "pos_emb.weight": "pos_emb.position_embeddings",
        "norm1.": "norm2.",
        "norm0.": "norm1.",
        "fc1.": "fc2.",
        "fc0.": "fc1.",
        ".wo.": ".attn.proj.",
    }
    state = {}
    for name, value in model.vision_tower.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        if "wqkv" in name:
            for kind, part in zip("qkv", value.chunk(3), strict=True):
                halves = part.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
                state[name.replace("wqkv", f"attn.{kind}_proj")] = part if kind == "v" else halves
        else:
            state[name] = value
    original.load_state_dict(state)
    image = pictures(kimi_vl.PATCH_SIZE, (4, 18))[0]
    image = Image(image.patches.float(), image.grid)
    with torch.no_grad():
        expected = original(image.patches.permute(0, 3, 1, 2), grid_thw=torch.tensor([[1, *image.grid]]))
        tokens = model.vision_tower(image)
    torch.testing.assert_close(tokens, expected.last_hidden_state, rtol=1e-4, atol=1e-4)
    squares = parts.merge(tokens, image.grid, 2)
    torch.testing.assert_close(squares, expected.pooler_output, rtol=1e-4, atol=1e-4)


def test_the_towers_know_nothing_of_this_package() -> None:
    for module in (isaac, kimi_vl, parts, phi4_reasoning_vision, siglip2):
        assert "naflex_deploy" not in Path(str(module.__file__)).read_text()
