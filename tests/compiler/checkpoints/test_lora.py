"""Adapters as the real peft writes them, merged as the real peft merges them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn
from transformers import Siglip2ForImageClassification, Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.lora import merge
from naflex_deploy.core.errors import CheckpointError
from tests.support.naflexvit import named
from tests.support.packs import assert_parity, random_images, run
from tests.support.siglip2 import golden, small
from tests.support.weights import reseed

FEW = {"num_hidden_layers": 2}
LAYER = "vision_model.encoder.layers.1.self_attn.q_proj"
KEY = f"base_model.model.{LAYER}.lora_A.weight"


def adapt(model: nn.Module, directory: Path, **options: object) -> nn.Module:
    """Give a model an adapter of random weights, save it, and return the model with it merged by peft."""
    options = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj", "fc1"]} | options
    adapted = get_peft_model(model, LoraConfig(**options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(str(directory), save_embedding_layers=False)
    return adapted.merge_and_unload().eval()


def equal(found: object, expected: object) -> None:
    assert found.architecture == expected.architecture
    assert found.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {r"layers.1.mlp.fc1": 20, "v_proj": 2}},
        {"modules_to_save": ["classifier"]},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"target_modules": ["position_embedding", "patch_embedding"]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal", "r": 4},
        {"exclude_modules": r".*layers\.0.*", "target_modules": r".*\.(q_proj|fc1)"},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)
def test_an_adapter_is_merged_as_peft_does(options: dict, tmp_path: Path) -> None:
    base = small(Siglip2ForImageClassification, **FEW)
    base.save_pretrained(tmp_path / "base")
    plain = read(tmp_path / "base").digest()
    merged = adapt(base, tmp_path / "adapter", **options)
    found = read(tmp_path / "base", tmp_path / "adapter")
    equal(found, read(merged))
    assert found.digest() != plain
    assert found.source == f"{tmp_path / 'base'} with {tmp_path / 'adapter'}"


def test_what_comes_out_is_what_the_merged_model_says(tmp_path: Path) -> None:
    base = small(Siglip2ForImageClassification, **FEW)
    base.save_pretrained(tmp_path / "base")
    images = random_images([(3, 5), (17, 2)], 8)
    merged = adapt(base, tmp_path / "adapter")
    found = read(tmp_path / "base", tmp_path / "adapter").model(("pooled", "tokens", "logits"))
    assert_parity(run(found, images), golden(merged, images))


def test_the_formula(tmp_path: Path) -> None:
    """W + α/r·B·A, in numbers."""
    config = {"peft_type": "LORA", "lora_alpha": 6}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    half = {"a": torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), "b": torch.tensor([[1.0, 0.0], [2.0, -1.0]])}
    tensors = {"base_model.model.fc.lora_A.weight": half["a"], "base_model.model.fc.lora_B.weight": half["b"]}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    found = merge({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}, tmp_path)
    assert found["fc.weight"].tolist() == [[4, 7, 1], [7, 10, -2]]
    assert found["fc.bias"].tolist() == [1, 1]


def test_a_classifier_trained_beside_the_adapter_is_added_to_a_model_without_one(tmp_path: Path) -> None:
    """As when the base was a two-tower model, whose published config names no classes."""
    base = small(Siglip2ForImageClassification, **FEW)
    base.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")},
        tmp_path / "base" / "model.safetensors",
    )
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    for key in ("id2label", "label2id"):
        del config[key]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    merged = adapt(base, tmp_path / "adapter", modules_to_save=["classifier"])
    found = read(tmp_path / "base", tmp_path / "adapter")
    equal(found, read(merged))
    assert found.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_2", "olora"])
def test_adapters_that_change_the_base_are_refused_and_their_conversion_is_read(init: str, tmp_path: Path) -> None:
    base = small(Siglip2VisionModel, **FEW)
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "fc1"], init_lora_weights=init)
    adapted = get_peft_model(base, config)
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(str(tmp_path / "before"))
    adapted.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    adapted.save_pretrained(str(tmp_path / "trained"))
    refused(tmp_path / "base", tmp_path / "trained", f"init_lora_weights = '{init}' is not supported: .*conversion")
    converted = {"path_initial_model_for_weight_conversion": str(tmp_path / "before")}
    adapted.save_pretrained(str(tmp_path / "converted"), **converted)
    found = read(tmp_path / "base", tmp_path / "converted")
    for name, tensor in read(adapted.merge_and_unload().eval()).weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("base_part", ["", "vision_model."])
@pytest.mark.parametrize("adapter_part", ["", "vision_model."])
@pytest.mark.parametrize("outer", ["", "model.vision_tower."])
def test_names_match_in_either_direction(outer: str, adapter_part: str, base_part: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1}))
    module = f"base_model.model.{outer}{adapter_part}encoder.q_proj"
    save_file(
        {f"{module}.lora_A.weight": torch.ones(1, 3), f"{module}.lora_B.weight": torch.ones(2, 1)},
        tmp_path / "adapter_model.safetensors",
    )
    own = f"{outer}{base_part}encoder.q_proj.weight"
    found = merge({own: torch.zeros(2, 3), "text_model.encoder.q_proj.weight": torch.zeros(2, 3)}, tmp_path)
    assert found[own].tolist() == [[1.0] * 3] * 2
    assert not found["text_model.encoder.q_proj.weight"].any()


def test_names_without_the_prefix(tmp_path: Path) -> None:
    """A vision model alone is saved under other names than those that the adapter was trained under."""
    base = small(Siglip2VisionModel, **FEW)
    base.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    merged = read(adapt(base, tmp_path / "adapter"))
    for prefix in ("", "vision_model."):
        renamed = {prefix + name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
        save_file(renamed, tmp_path / "base" / "model.safetensors")
        equal(read(tmp_path / "base", tmp_path / "adapter"), merged)


def test_timm(tmp_path: Path) -> None:
    base = named("naflexvit_base_patch16_gap", num_classes=3)
    save_for_hf(base, tmp_path / "base", model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True)
    merged = adapt(base, tmp_path / "adapter", target_modules=["qkv", "fc2"], modules_to_save=["head"])
    for spec in (str(tmp_path / "base"), f"timm:{tmp_path / 'base'}"):
        found = read(spec, tmp_path / "adapter")
        equal(found, read(merged))
        assert found.labels == ("a", "b", "c")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    small(Siglip2ForImageClassification, **FEW).save_pretrained(path)
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    adapt(small(Siglip2ForImageClassification, **FEW), tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(adapter: Path, **tensors: torch.Tensor | None) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({k: v for k, v in (load_file(path) | tensors).items() if v is not None}, path)


def configure(adapter: Path, **values: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(base: Path | str | nn.Module, adapter: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read(base, adapter)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)


def test_an_adapter_of_other_shapes_is_refused(base: Path, tmp_path: Path) -> None:
    wide = reseed(small(Siglip2ForImageClassification, hidden_size=48, **FEW))
    adapt(wide, tmp_path / "adapter")
    said = r"mlp\.fc1' is \[192, 96\]: expected lora_A \[r, 96\] and lora_B \[192, r\], found \[3, 48\] and \[192, 3\]"
    refused(base, tmp_path / "adapter", said)


def test_an_adapter_of_a_deeper_model_is_refused(base: Path, tmp_path: Path) -> None:
    adapt(small(Siglip2ForImageClassification, num_hidden_layers=3), tmp_path / "adapter")
    refused(base, tmp_path / "adapter", r"layers\.2\.\S+', found no such weight in the model")


def test_a_classifier_of_other_shape_is_refused(base: Path, adapter: Path) -> None:
    edit(adapter, **{"base_model.model.classifier.weight": torch.ones(4, 96)})
    refused(base, adapter, r"'classifier\.weight': expected shape \[3, 96\], found \[4, 96\]")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({KEY: None}, "expected a weight and both halves for .*, found lora_B alone"),
        ({KEY: torch.full((3, 96), float("nan"))}, "lora_A.weight' holds NaN or infinity"),
        ({KEY: torch.ones(3)}, r"found \[3\] and \[96, 3\]"),
        ({KEY: torch.ones(4, 96)}, r"found \[4, 96\] and \[96, 3\]"),
        ({f"base_model.model.{LAYER}.lora_magnitude_vector": torch.ones(96)}, "lora_magnitude_vector' is not supp"),
        ({"base_model.model.surprise": torch.ones(2)}, "unexpected tensor 'surprise'"),
    ],
    ids=["half", "nan", "vector", "ranks differ", "dora", "extra"],
)
def test_damaged_tensors_are_refused(base: Path, adapter: Path, changes: dict, match: str) -> None:
    edit(adapter, **changes)
    refused(base, adapter, match)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True is not supported"),
        ({"init_lora_weights": "corda"}, "init_lora_weights = 'corda' is not supported"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights = 'loftq' is not supported"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights = 'lora_ga' is not supported"),
        ({"init_lora_weights": "of next year"}, "init_lora_weights = 'of next year' is not supported"),
        ({"init_lora_weights": [1]}, r"init_lora_weights = \[1\] is not supported"),
        ({"velora_config": {"a": 1}}, "velora_config = {'a': 1} is not supported"),
        ({"of_next_year": 3}, "of_next_year = 3 is not supported"),
        ({"lora_alpha": "7"}, "lora_alpha = '7' with"),
        ({"alpha_pattern": [3]}, r"alpha_pattern = \[3\] is not supported"),
    ],
)
def test_other_kinds_of_adapters_are_refused(base: Path, adapter: Path, values: dict, match: str) -> None:
    configure(adapter, **values)
    refused(base, adapter, match)


def test_files_that_are_missing_or_pickles(base: Path, adapter: Path, tmp_path: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter / "adapter_model.bin")
    refused(base, adapter, r"found only adapter_model\.bin, a pickle")
    (adapter / "adapter_model.bin").unlink()
    refused(base, adapter, "no file at .*adapter_model.safetensors")
    refused(base, tmp_path / "nothing", r"no adapter_config\.json there")
    weights.write_bytes(b"x" * 100)
    refused(base, adapter, "is damaged")


def test_models_that_take_no_adapter(adapter: Path) -> None:
    refused("random:siglip2-base", adapter, "cannot merge an adapter into 'random:siglip2-base'")
    refused("bv:x.npz", adapter, "cannot merge an adapter into 'bv:x.npz'")
    refused(small(Siglip2VisionModel, **FEW), adapter, "cannot merge an adapter into a module")
