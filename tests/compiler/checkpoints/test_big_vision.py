"""The npz reader: a transformers model written under big_vision's names gives that model's results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.model.attention import masked_attention
from naflex_deploy.core.errors import CheckpointError
from tests.support.flax import flax_arrays
from tests.support.packs import GRIDS, Recording, Results, assert_parity, random_images, run
from tests.support.siglip2 import SMALL, golden, small

IMAGES = random_images(GRIDS, 8)
WIDTH = SMALL["hidden_size"]


@pytest.fixture(scope="module")
def original():
    return small(Siglip2VisionModel)


@pytest.fixture(scope="module")
def reference(original):
    return golden(original, IMAGES)


def save(path, arrays):
    np.savez(path, **arrays)
    return f"bv:{path}"


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("root", ["params/img/", "params/", ""])
def test_equals_transformers(tmp_path, original, reference, root, stacked):
    text = {"params/txt/Embed_0/embedding": np.ones((4, 4)), "params/t": np.ones(1), "params/b": np.ones(1)}
    arrays = flax_arrays(original, root, stacked) | (text if root == "params/img/" else {})
    checkpoint = read(save(tmp_path / "m.npz", arrays))
    recording = Recording(masked_attention)
    assert_parity(run(checkpoint.model(attention=recording), IMAGES), reference)
    assert min(recording.sigmas) >= 2
    assert checkpoint.preprocessing.search == "float32"


@pytest.mark.parametrize("pooling", ["gap", "max"])
def test_other_poolings_with_representation_and_head(tmp_path, original, reference, pooling):
    generator = torch.Generator().manual_seed(0)
    dense, bias = torch.randn(WIDTH, 40, generator=generator) * 0.1, torch.randn(40, generator=generator)
    head, head_bias = torch.randn(40, 5, generator=generator), torch.randn(5, generator=generator)
    arrays = flax_arrays(original, head=False)
    arrays |= {"params/img/pre_logits/kernel": dense.numpy(), "params/img/pre_logits/bias": bias.numpy()}
    arrays |= {"params/img/head/kernel": head.numpy(), "params/img/head/bias": head_bias.numpy()}
    model = read(save(tmp_path / "m.npz", arrays) + f":{pooling}").model(("pooled", "tokens", "logits"))
    reduced = torch.stack([t.mean(0) if pooling == "gap" else t.amax(0) for t in reference.tokens]).float()
    pooled = torch.tanh(reduced @ dense + bias)
    assert_parity(run(model, IMAGES), Results(pooled, reference.tokens, pooled @ head + head_bias))


def test_tokens_alone(tmp_path, original):
    model = read(save(tmp_path / "m.npz", flax_arrays(original, head=False)) + ":none").model(("tokens",))
    assert model.architecture.outputs[:1] == ("tokens",)
    assert "pooled" not in model.architecture.outputs


def test_bfloat16(tmp_path, original):
    """numpy has no bfloat16: such arrays come as two raw bytes a value."""
    arrays = flax_arrays(original)
    kernel = torch.from_numpy(arrays["params/img/embedding/kernel"].copy())
    arrays["params/img/embedding/kernel"] = kernel.bfloat16().view(torch.int16).numpy().view("V2")
    found = read(save(tmp_path / "m.npz", arrays)).weights["embed.weight"]
    assert torch.equal(found, kernel.bfloat16().float().T)


def test_norm_of_projected_patches(tmp_path, original):
    arrays = flax_arrays(original)
    scale = np.linspace(0.5, 1.5, WIDTH, dtype=np.float32)
    arrays |= {"params/img/patchln_post/scale": scale, "params/img/patchln_post/bias": scale}
    model = read(save(tmp_path / "m.npz", arrays)).model()
    x = torch.randn(3, WIDTH)
    expected = F.layer_norm(x, (WIDTH,), torch.from_numpy(scale), torch.from_numpy(scale), 1e-6)
    assert torch.equal(model.patch_norm(x), expected)


def refused(spec, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read(spec)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path, original):
    arrays = flax_arrays(original)
    path = tmp_path / "m.npz"
    refused(f"bv:{tmp_path / 'nowhere.npz'}", "no file at")
    path.write_bytes(b"text")
    refused(f"bv:{path}", "no readable npz")
    refused(save(path, {"weights": np.ones(3)}), "embedding/kernel', found none")
    path.write_bytes(path.read_bytes()[:100])
    refused(f"bv:{path}", "no readable npz")
    objects = arrays | {"params/img/embedding/bias": np.array([{}] * WIDTH)}
    refused(save(path, objects), "'params/img/embedding/bias' holds Python objects")
    refused(save(path, arrays) + ":mean", "unknown pooling 'mean'")


def test_other_architectures(tmp_path, original):
    path, arrays = tmp_path / "m.npz", flax_arrays(original)
    conv = arrays | {"params/img/embedding/kernel": np.ones((8, 8, 3, WIDTH))}
    refused(save(path, conv), r"expected shape \[P·P·3, D\], found \[8, 8, 3, 96\]")
    flat = arrays | {"params/img/pos_embedding": np.ones((1, 256, WIDTH))}
    refused(save(path, flat), r"'pos_embedding': expected shape \[rows, columns, 96\], found \[1, 256, 96\]")
    refused(save(path, arrays | {"params/img/patchln_pre/scale": np.ones(192)}), "patchln_pre = True is not supported")
    refused(save(path, arrays) + ":gap", r"unexpected tensor 'MAPHead_0/")
    del arrays["params/img/Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias"]
    refused(save(path, arrays), r"'Transformer/encoderblock_1/MlpBlock_0/Dense_1/bias' is missing")
