"""The Hugging Face reader: what it accepts, and the one line it gives for what it does not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Siglip2ForImageClassification, Siglip2Model, Siglip2VisionConfig, Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.core.errors import CheckpointError
from tests.support.packs import assert_parity, random_images, run
from tests.support.siglip2 import golden, small

IMAGES = random_images([(3, 5), (17, 2)], 8)
FEW = {"num_hidden_layers": 1}


@pytest.fixture
def directory(tmp_path):
    """A classifier as save_pretrained writes it."""
    small(Siglip2ForImageClassification, **FEW).save_pretrained(tmp_path)
    return tmp_path


def edit_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def edit_json(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize("kind", [Siglip2VisionModel, Siglip2Model, Siglip2ForImageClassification])
def test_a_directory_equals_the_module(kind, tmp_path):
    original = small(kind, **FEW)
    original.save_pretrained(tmp_path)
    checkpoint = read(tmp_path)
    assert_parity(run(checkpoint.model(_outputs(kind)), IMAGES), golden(original, IMAGES))
    assert checkpoint.digest() == read(original).digest()


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_both_forms_of_names(prefix, tmp_path):
    """A vision model alone is saved without the prefix by current versions, with it by earlier ones."""
    original = small(Siglip2VisionModel, **FEW)
    original.save_pretrained(tmp_path)
    bare = {name.removeprefix("vision_model."): tensor for name, tensor in original.state_dict().items()}
    save_file({prefix + name: tensor for name, tensor in bare.items()}, tmp_path / "model.safetensors")
    assert_parity(run(read(tmp_path).model(), IMAGES), golden(original, IMAGES))


def test_labels_and_preprocessing(directory):
    edit_json(
        directory / "preprocessor_config.json",
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
        resample=3,
        patch_size=8,
    )
    checkpoint = read(directory)
    assert checkpoint.labels == ("cat", "dog", "newt")
    assert checkpoint.preprocessing.mean == (0.1, 0.2, 0.3)
    assert checkpoint.preprocessing.std == (0.4, 0.5, 0.6)
    assert checkpoint.preprocessing.resample == "bicubic"
    assert checkpoint.architecture.classes == 3


def test_classes_that_do_not_exclude_one_another_are_scored_each_for_itself(directory):
    assert read(directory).scores == "softmax"
    edit_json(directory / "config.json", problem_type="single_label_classification")
    assert read(directory).scores == "softmax"
    edit_json(directory / "config.json", problem_type="multi_label_classification")
    assert read(directory).scores == "sigmoid"


def test_classes_without_names_are_numbered(directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if "label" not in key}))
    assert read(directory).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_mean_and_std_reach_the_projection(directory):
    edit_json(directory / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    checkpoint = read(directory)
    model = checkpoint.model()
    pixels = torch.randint(0, 256, (4, 192)).float()
    mean, std = torch.tensor([0.1, 0.2, 0.3]).repeat(64), torch.tensor([0.4, 0.5, 0.6]).repeat(64)
    expected = torch.nn.functional.linear(
        (pixels / 255 - mean) / std, checkpoint.weights["embed.weight"], checkpoint.weights["embed.bias"]
    )
    torch.testing.assert_close(model.embed(pixels - 127.5), expected, rtol=1e-5, atol=1e-5)


def test_random_weights_are_seeded():
    first, second = read("random:siglip2-base"), read("random:siglip2-base")
    assert first.digest() == second.digest()
    with torch.device("meta"):
        original = Siglip2VisionModel(Siglip2VisionConfig())
    count = sum(parameter.numel() for parameter in original.parameters())
    assert sum(tensor.numel() for tensor in first.weights.values()) == count


def test_an_unknown_random_name_names_the_nearest():
    with pytest.raises(CheckpointError, match="did you mean 'siglip2-base'"):
        read("random:siglip2-bas")


def refused(directory, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        read(directory)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


def test_missing_tensor(directory):
    edit_tensors(directory, lambda t: t.pop("vision_model.encoder.layers.0.mlp.fc1.bias"))
    refused(directory, r"'vision_model\.encoder\.layers\.0\.mlp\.fc1\.bias' is missing, expected shape \[192\]")


def test_extra_tensor(directory):
    edit_tensors(directory, lambda t: t.update({"vision_model.encoder.layers.0.ls1.gamma": torch.ones(96)}))
    refused(directory, r"unexpected tensor 'vision_model\.encoder\.layers\.0\.ls1\.gamma'")


def test_misshaped_tensor(directory):
    edit_tensors(directory, lambda t: t.update({"classifier.weight": torch.ones(4, 96)}))
    refused(directory, r"'classifier\.weight': expected shape \[3, 96\], found \[4, 96\]")


def test_not_finite(directory):
    edit_tensors(directory, lambda t: t["classifier.bias"].fill_(float("nan")))
    refused(directory, r"'classifier\.bias' holds NaN or infinity")


def test_damaged_file(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(directory, r"model\.safetensors is damaged")


def test_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refused(directory, r"found only pytorch_model\.bin, a pickle")


def test_no_weights(directory):
    (directory / "model.safetensors").unlink()
    refused(directory, r"expected weights in \*\.safetensors, found none")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("siglip", "model_type 'siglip', expected 'siglip2'"),
        ("clip_vision_model", "models of type 'clip_vision_model' are not supported"),
    ],
)
def test_another_model(directory, kind, message):
    edit_json(directory / "config.json", model_type=kind)
    refused(directory, message)


def test_unsupported_activation(directory):
    vision = json.loads((directory / "config.json").read_text())["vision_config"] | {"hidden_act": "relu"}
    edit_json(directory / "config.json", vision_config=vision)
    refused(directory, "hidden_act = 'relu' is not supported")


def test_config_that_contradicts_its_tensors(directory):
    vision = json.loads((directory / "config.json").read_text())["vision_config"] | {"hidden_size": 48}
    edit_json(directory / "config.json", vision_config=vision)
    refused(directory, r"expected shape \[48, 192\], found \[96, 192\]")


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("hidden_size", "96", "hidden_size: expected int, found '96'"),
        ("num_attention_heads", 5, "5 heads do not divide a width of 96"),
        ("num_attention_heads", 0, "heads is 0, expected at least 1"),
        ("num_patches", 250, "num_patches = 250 is not square"),
    ],
)
def test_config_that_makes_no_model(directory, option, value, match):
    vision = json.loads((directory / "config.json").read_text())["vision_config"] | {option: value}
    edit_json(directory / "config.json", vision_config=vision)
    refused(directory, match)


def test_contradicting_patch_sizes(directory):
    edit_json(directory / "preprocessor_config.json", patch_size=14)
    refused(directory, "patch_size 14, config.json 8")


def test_config_is_no_json(directory):
    (directory / "config.json").write_text("{")
    refused(directory, "config.json is unreadable")


def test_no_config(directory):
    (directory / "config.json").unlink()
    refused(directory, "no config.json")


def test_no_such_place():
    refused("nowhere/at/all", "no model at 'nowhere/at/all'")


def test_module_of_another_class():
    with pytest.raises(CheckpointError, match="class Linear"):
        read(torch.nn.Linear(2, 2))


def _outputs(kind):
    return ("pooled", "tokens", "logits") if kind is Siglip2ForImageClassification else ("pooled", "tokens")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights(directory, dtype):
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    edit_tensors(directory, lambda t: t.update({name: t[name].to(dtype)}))
    refused(directory, f"tensor '{name}' is quantised: .*found {str(dtype).removeprefix('torch.')}.*dequantise it")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method = 'bitsandbytes' is not supported"),
        ({"bits": 4}, "quant_method = 'unknown' is not supported"),
        ("gptq", "quant_method = ''gptq'' is not supported"),
    ],
)
def test_a_config_of_quantised_weights(directory, config, match):
    edit_json(directory / "config.json", quantization_config=config)
    refused(directory, match)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_float32(directory, dtype):
    edit_tensors(directory, lambda t: t.update({name: value.to(dtype) for name, value in t.items()}))
    theirs = Siglip2ForImageClassification.from_pretrained(directory, dtype=torch.float32).state_dict()
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    torch.testing.assert_close(read(directory).weights["blocks.0.mlp.fc1.weight"], theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"vision_config": [1]}, r"expected an object for a tower, found \[1\]"),
        ({"model_type": ["siglip2"]}, "model_type"),
    ],
)
def test_config_of_other_types(directory, changes, match):
    edit_json(directory / "config.json", **changes)
    refused(directory, match)
