"""Every registered NaFlexViT, and random configurations, against timm's own class."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf
from torch import nn

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.checkpoints.timm.module import options_of
from naflex_deploy.compiler.model.attention import masked_attention, ragged_attention
from naflex_deploy.core.errors import CheckpointError
from tests.support.naflexvit import OPTIONS, configured, golden, named
from tests.support.packs import GRIDS, Recording, assert_parity, random_images, run
from tests.support.weights import reseed

IMAGES = random_images(GRIDS, 8)
FEW = random_images([(1, 5), (7, 1), (20, 3), (4, 6)], 8)


def check(original, images=FEW, attentions=(ragged_attention,)):
    checkpoint = read(original)
    outputs = ("pooled", "tokens", "logits") if checkpoint.architecture.classes else ("pooled", "tokens")
    expected = golden(original, images)
    for attention in attentions:
        recording = Recording(attention)
        worst = assert_parity(run(checkpoint.model(outputs, recording), images), expected)
        print(f"{attention.__name__}: {worst:.1e}, σ {min(recording.sigmas):.1f}")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_registered_name_equals_timm(name):
    check(named(name), IMAGES, (masked_attention, ragged_attention))


def test_the_table_has_every_registered_name():
    assert set(ARCHITECTURES) == set(timm.list_models("naflexvit*"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_agrees_with_timm(name):
    """Options, class count and preprocessing of each name, in full width."""
    registered = ARCHITECTURES[name]
    with torch.device("meta"):
        original = timm.create_model(name)
    config = TimmConfig.of(registered.options, name)
    ours = config.architecture(registered.classes)
    assert ours == TimmConfig.of(options_of(original), name).architecture(original.num_classes)
    assert registered.mean == tuple(original.pretrained_cfg["mean"])
    assert registered.std == tuple(original.pretrained_cfg["std"])
    assert original.pretrained_cfg["interpolation"] == "bicubic"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_equals_timm(name):
    check(configured(classes=3, **OPTIONS[name]))


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_clip_224",
        "vit_small_patch16_dinov3",
        "vit_base_patch16_rope_mixed_224",
        "eva02_tiny_patch14_224",
    ],
)
def test_a_classic_model_made_for_naflex_equals_timm(name):
    original = reseed(timm.create_model(name, use_naflex=True, depth=1, num_classes=20))
    images = random_images([(3, 5), (1, 20)], original.embeds.patch_size[0])
    model = read(original).model(("pooled", "tokens", "logits"))
    assert_parity(run(model, images), golden(original, images))


@pytest.mark.parametrize("antialias", [False, True])
def test_a_table_of_128_by_128_equals_timm(antialias):
    check(configured(pos_embed_grid_size=(128, 128), pos_embed_antialias=antialias, pos_embed_interp_mode="bilinear"))


def test_tokens_alone_where_there_is_no_pooling():
    original = configured(global_pool="", class_token=True)
    found = read(original).model(("tokens",))
    assert "pooled" not in found.architecture.outputs


CONFIGS = st.fixed_dictionaries(
    {
        "embed_dim": st.sampled_from([32, 48]),
        "num_heads": st.sampled_from([1, 2, 4]),
        "depth": st.integers(1, 2),
        "mlp_ratio": st.floats(0.5, 4),
        "patch_size": st.sampled_from([2, 8]),
        "class_token": st.booleans(),
        "reg_tokens": st.integers(0, 3),
        "init_values": st.sampled_from([None, 1e-5]),
        "qkv_bias": st.booleans(),
        "proj_bias": st.booleans(),
        "qk_norm": st.booleans(),
        "scale_attn_inner_norm": st.booleans(),
        "scale_mlp_norm": st.booleans(),
        "pre_norm": st.booleans(),
        "final_norm": st.booleans(),
        "fc_norm": st.sampled_from([None, False, True]),
        "global_pool": st.sampled_from(["avg", "avgmax", "max", "map", "token"]),
        "pool_include_prefix": st.booleans(),
        "pos_embed": st.sampled_from(["learned", "factorized", "none"]),
        "pos_embed_grid_size": st.tuples(st.integers(1, 20), st.integers(1, 20)),
        "pos_embed_interp_mode": st.sampled_from(["bilinear", "bicubic"]),
        "pos_embed_ar_preserving": st.booleans(),
        "pos_embed_antialias": st.booleans(),
        "pos_embed_align_corners": st.booleans(),
        "patchify_channels_last": st.booleans(),
        "embed_norm_layer": st.sampled_from([None, "layernorm"]),
        "act_layer": st.sampled_from([None, "gelu_tanh"]),
        "attn_type": st.sampled_from(["standard", "eva", "rope"]),
        "rope_type": st.sampled_from(["", "axial", "mixed", "dinov3", "mrope"]),
        "rope_grid_indexing": st.sampled_from(["ij", "xy"]),
        "rope_rotate_half": st.booleans(),
        "swiglu_mlp": st.booleans(),
        "swiglu_align_to": st.sampled_from([0, 8]),
        "attn_gated": st.booleans(),
        "qkv_fused": st.booleans(),
    }
)
GRID = st.tuples(st.integers(1, 24), st.integers(1, 24))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(options=CONFIGS, grids=st.lists(GRID, min_size=1, max_size=3), seed=st.integers(0, 9))
def test_random_configurations_equal_timm(options, grids, seed):
    if options["global_pool"] == "token":
        options["class_token"] = True
    if options["pos_embed"] == "learned" and options["pos_embed_ar_preserving"]:
        options["pos_embed_grid_size"] = (options["pos_embed_grid_size"][0],) * 2
    if options["rope_type"] == "mixed":
        options["rope_rotate_half"] = False
    if options["rope_type"] == "mrope":
        options |= {"rope_grid_indexing": "ij", "rope_mrope_section": (2, 1 + seed // 3, 1 + seed // 4)}
    classes = 20 * (seed % 2)  # many, as one logit alone can be near zero and has no scale to compare with
    original = configured(classes=classes, **options)
    images = random_images(grids, options["patch_size"], seed)
    checkpoint = read(original)
    outputs = ("pooled", "tokens", "logits") if classes else ("pooled", "tokens")
    assert_parity(run(checkpoint.model(outputs), images), golden(original, images))


@pytest.fixture
def saved(tmp_path):
    """A classifier as save_for_hf writes it."""
    original = named("naflexvit_base_patch16_gap", num_classes=3)
    save_for_hf(original, tmp_path, model_config={"label_names": ["cat", "dog", "newt"]}, safe_serialization=True)
    return tmp_path, original


@pytest.mark.parametrize("form", ["{}", "timm:{}", "timm:{}/model.safetensors"])
def test_a_saved_model_equals_the_module(saved, form):
    directory, original = saved
    checkpoint = read(form.format(directory))
    assert checkpoint.labels == ("cat", "dog", "newt")
    assert checkpoint.preprocessing.resample == "bicubic"
    assert_parity(run(checkpoint.model(("pooled", "tokens", "logits")), FEW), golden(original, FEW))


@pytest.mark.parametrize("tag", ["", ".v2_webli"])
def test_a_name_with_a_file(tmp_path, tag):
    with torch.device("meta"):
        original = timm.create_model("naflexvit_base_patch16_siglip", depth=12)
    tensors = {name: torch.zeros(tensor.shape, dtype=torch.half) for name, tensor in original.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    checkpoint = read(f"timm:naflexvit_base_patch16_siglip{tag}:{tmp_path / 'w.safetensors'}")
    assert checkpoint.architecture == ARCHITECTURES_SIGLIP
    assert sum(value.numel() for value in checkpoint.weights.values()) == sum(v.numel() for v in tensors.values())


ARCHITECTURES_SIGLIP = TimmConfig.of(ARCHITECTURES["naflexvit_base_patch16_siglip"].options, "").architecture(0)


def edit(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(spec, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read(spec)
    assert "\n" not in str(caught.value)


def test_missing_extra_and_misshaped_tensors(saved):
    directory, _ = saved
    edit(directory, lambda t: t.update({"blocks.0.attn.q_norm.weight": torch.ones(32)}))
    refused(directory, r"unexpected tensor 'blocks\.0\.attn\.q_norm\.weight'")
    edit(directory, lambda t: t.pop("blocks.0.attn.q_norm.weight"))
    edit(directory, lambda t: t.update({"embeds.reg_token": torch.ones(1, 5, 96)}))
    refused(directory, r"'embeds\.reg_token': expected shape \[1, 4, 96\], found \[1, 5, 96\]")
    edit(directory, lambda t: t.pop("embeds.reg_token"))
    refused(directory, r"'embeds\.reg_token' is missing")


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("rope_type", "mrope", r"rope_type = 'mrope' is not supported with rope_mrope_section = None"),
        ("rope_type", "rotary", r"rope_type = 'rotary' is not supported \(supported: '', 'none', 'axial'"),
        ("attn_layer", "diff", "attn_layer = 'diff' is not supported"),
        ("norm_layer", "rmsnorm", "norm_layer = 'rmsnorm' is not supported"),
        ("act_layer", "relu", "act_layer = 'relu' is not supported"),
        ("block_fn", "parallel", "block_fn = 'parallel' is not supported"),
        ("mlp_layer", "glu", "mlp_layer = 'glu' is not supported"),
        ("input_norm_layer", "layernorm", "input_norm_layer = 'layernorm' is not supported"),
        ("pos_embed_interp_mode", "nearest", "pos_embed_interp_mode = 'nearest' is not supported"),
        ("pos_embed_grid_size", [200, 16], r"pos_embed_grid_size = \(200, 16\) is not supported .tables of"),
        ("pos_embed_grid_size", [0, 16], r"pos_embed_grid_size = \(0, 16\)"),
        ("patch_size", [16, 8], r"patch_size = \(16, 8\) is not supported"),
        ("in_chans", 4, "in_chans = 4 is not supported"),
        ("reg_tokenz", 1, r"unknown option 'reg_tokenz' = 1 \(did you mean 'reg_tokens'"),
        ("num_kv_heads", 1, "num_kv_heads = 1 is not supported"),
        ("global_pool", "", "num_classes = 3 with global_pool = '' is not supported"),
        ("global_pool", "token", "needs a class token"),
        ("depth", "2", "depth: expected int, found '2'"),
        ("qk_norm", 1, "qk_norm: expected bool, found 1"),
        ("mlp_ratio", True, "mlp_ratio: expected float, found True"),
        ("num_heads", 0, "heads is 0, expected at least 1"),
        ("num_heads", 5, "5 heads do not divide a width of 96"),
    ],
)
def test_options_without_counterpart(saved, option, value, match):
    directory, _ = saved
    config = json.loads((directory / "config.json").read_text())
    config["model_args"][option] = value
    (directory / "config.json").write_text(json.dumps(config))
    refused(directory, match)


def test_a_config_that_contradicts_its_tensors(saved):
    directory, _ = saved
    config = json.loads((directory / "config.json").read_text())
    config["model_args"]["pos_embed"] = "factorized"
    (directory / "config.json").write_text(json.dumps(config))
    refused(directory, r"'embeds\.pos_embed_y' is missing, expected shape \[1, 16, 96\]")


def test_other_architectures(saved):
    directory, _ = saved
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architecture": "vit_base_patch16_224"}))
    refused(directory, "'vit_base_patch16_224' is no NaFlexVit architecture")
    refused("timm:naflexvit_base_patch16_gab:x", "did you mean 'naflexvit_base_patch16_gap'")
    refused("timm:naflexvit_base_patch16_gap", "names an architecture without weights")
    refused("timm:naflexvit_base_patch16_gap:nowhere.safetensors", "no file at 'nowhere.safetensors'")


def test_modules_with_unsupported_parts():
    original = configured()
    original.blocks[1].norm1 = nn.RMSNorm(96)
    refused(original, "norm_layer = RMSNorm is not supported")
    original = configured()
    original.norm.eps = 1e-5
    refused(original, r"norms of several eps, \[1e-06, 1e-05\]")
    oblong = configured(pos_embed_ar_preserving=True, pos_embed_grid_size=(5, 24))
    refused(oblong, r"pos_embed_ar_preserving = True with pos_embed_grid_size = \(5, 24\) is not supported")
    refused(configured(attn_layer="diff"), "attn_layer = DiffAttention is not supported")
