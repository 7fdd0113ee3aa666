"""SigLIP2-NaFlex equals the transformers classes, and the test notices every subtle mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Siglip2ForImageClassification, Siglip2Model, Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.model.attention import masked_attention, ragged_attention
from naflex_deploy.compiler.model.mlp import Mlp
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.compiler.model.pooling import MapPool
from naflex_deploy.compiler.model.positions import interpolation as positions
from naflex_deploy.compiler.model.positions.gather import GatheredTable
from naflex_deploy.core.pack import Pack
from tests.support.packs import GRIDS, Recording, assert_parity, inputs, random_images, run
from tests.support.siglip2 import golden, small

IMAGES = random_images(GRIDS, 8)


@pytest.mark.parametrize("kind", [Siglip2VisionModel, Siglip2Model, Siglip2ForImageClassification])
def test_equals_transformers(kind):
    original = small(kind)
    expected = golden(original, IMAGES)
    names = ("pooled", "tokens", "logits") if kind is Siglip2ForImageClassification else ("pooled", "tokens")
    for attention in (masked_attention, ragged_attention):
        recording = Recording(attention)
        worst = assert_parity(run(read(original).model(names, recording), IMAGES), expected)
        assert min(recording.sigmas) >= 2
        print(f"{kind.__name__}, {attention.__name__}: {worst:.1e}, σ {min(recording.sigmas):.1f}")


@pytest.mark.parametrize("size", [{"num_attention_heads": 2}, {"num_patches": 64}, {"hidden_act": "gelu"}])
def test_equals_transformers_in_other_shapes(size):
    original = small(Siglip2VisionModel, **size)
    assert_parity(run(read(original).model(), IMAGES), golden(original, IMAGES))


def test_hidden_states_equal_transformers():
    original = small(Siglip2VisionModel)
    image = random_images([(4, 7)], 8)
    with torch.inference_mode():
        hidden = original(
            pixel_values=torch.from_numpy(image[0].pixels).float()[None] / 127.5 - 1,
            pixel_attention_mask=torch.ones(1, 28),
            spatial_shapes=torch.tensor([[4, 7]]),
            output_hidden_states=True,
        ).hidden_states
    model = read(original).model(("tokens:-1", "tokens:-2", "tokens:-1:norm", "tokens:-2:norm", "tokens"))
    found = model(*inputs(model, Pack.of(image)))
    for k in (1, 2):
        with torch.inference_mode():
            normed = original.post_layernorm(hidden[-k][0])
        for name, theirs in ((f"tokens:-{k}", hidden[-k][0]), (f"tokens:-{k}:norm", normed)):
            assert (found[name] - theirs).abs().max() <= 1e-5 * theirs.abs().max(), name
    assert torch.equal(found["tokens:-1:norm"], found["tokens"])
    assert not torch.allclose(found["tokens:-2:norm"], found["tokens"], atol=0.1)


def _gelu(model: PackedNaFlexViT) -> None:
    for module in model.modules():
        if isinstance(module, Mlp):
            module.approximate = "none"


def _gelu_of_head(model: PackedNaFlexViT) -> None:
    model.pool.mlp.approximate = "none"


def _epsilon(model: PackedNaFlexViT) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def _scale(model: PackedNaFlexViT) -> None:
    model.attention = lambda q, *rest: masked_attention(0.9 * q, *rest)


def _no_mask(model: PackedNaFlexViT) -> None:
    model.attention = lambda q, k, v, own, all_: masked_attention(
        q, k, v, torch.zeros_like(own), torch.zeros_like(all_)
    )


def _no_antialias(model: PackedNaFlexViT) -> None:
    replacement = GatheredTable(
        dataclasses.replace(model.positions.positions, antialias=False), model.embed.out_features
    )
    replacement.table = model.positions.table
    model.positions = replacement


def _residual(model: PackedNaFlexViT) -> None:
    forward = model.pool.out.forward
    model.pool.out.forward = lambda y: forward(y) + model.pool.probe


def _pixel_centre(model: PackedNaFlexViT) -> None:
    model.embed.bias.data += 0.5 * model.embed.weight.sum(1)


def _bicubic(model: PackedNaFlexViT) -> None:
    model.positions.positions = dataclasses.replace(model.positions.positions, interpolation="bicubic")


MUTATIONS: dict[str, Callable[[PackedNaFlexViT], None]] = {
    "GELU by erf": _gelu,
    "GELU by erf in the head alone": _gelu_of_head,
    "LayerNorm ε of 1e-5": _epsilon,
    "attention scale 10 % off": _scale,
    "no mask between images": _no_mask,
    "no antialias": _no_antialias,
    "bicubic": _bicubic,
    "residual from the probe": _residual,
    "pixels half a step off centre": _pixel_centre,
}


@pytest.fixture(scope="module")
def original():
    return small(Siglip2VisionModel)


@pytest.fixture(scope="module")
def reference(original):
    return golden(original, IMAGES)


@pytest.mark.parametrize("name", MUTATIONS)
def test_parity_sees_mutation(name, original, reference):
    model = read(original).model()
    assert_parity(run(model, IMAGES), reference)
    MUTATIONS[name](model)
    with pytest.raises(AssertionError, match="max"):
        assert_parity(run(model, IMAGES), reference)


def test_parity_sees_a_half_pixel_shift(original, reference, monkeypatch):
    weights = positions.filter_weights
    monkeypatch.setattr(positions, "filter_weights", lambda place, *rest: weights(place - 0.5, *rest))
    with pytest.raises(AssertionError, match="max"):
        assert_parity(run(read(original).model(), IMAGES), reference)


def test_mutated_module_list_is_complete(original):
    """A head or block that gains another norm or MLP is still covered by the mutations above."""
    model = read(original).model()
    assert isinstance(model.pool, MapPool)
    assert sum(isinstance(module, Mlp) for module in model.modules()) == len(model.blocks) + 1


@pytest.mark.parametrize("grid", [(29, 1), (5, 1), (1, 37), (17, 23), (70, 3), (64, 64), (100, 80), (2, 2), (1, 1)])
def test_positions_follow_the_formula(grid):
    """Against the resize written out in numpy, float64, one output at a time."""
    height, width = grid
    table = np.random.default_rng(0).standard_normal((16, 16, 5))
    layer = positions.PositionTable(positions.Positions((16, 16)), 5)
    layer.table.data = torch.from_numpy(table.reshape(256, 5)).float()
    coords = torch.cartesian_prod(torch.arange(height), torch.arange(width)).int()
    found = layer(coords, torch.tensor([grid]).int().expand(len(coords), 2))
    expected = np.einsum("yi,xj,ijc->yxc", _triangle_rows(height), _triangle_rows(width), table)
    assert np.abs(found.detach().numpy() - expected.reshape(-1, 5)).max() <= 1e-5 * np.abs(expected).max()


def _triangle_rows(target: int, source: int = 16) -> np.ndarray:
    scale = source / target
    support = max(scale, 1.0)
    rows = np.zeros((target, source))
    for out in range(target):
        centre = (out + 0.5) * scale
        for tap in range(source):
            rows[out, tap] = max(0.0, 1 - abs(tap + 0.5 - centre) / support)
        rows[out] /= rows[out].sum()
    return rows
