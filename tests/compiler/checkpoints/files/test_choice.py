"""Which files make the model: those that transformers' own ``from_pretrained`` loads, or the choice is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.core.errors import CheckpointError
from tests.support.siglip2 import small

TENSOR, OURS = "encoder.layers.0.mlp.fc1.weight", "blocks.0.mlp.fc1.weight"
INDEX = "model.safetensors.index.json"
STRAYS = (
    *("model_ema.safetensors", "model_old.safetensors", "model.fp16.safetensors", "open_clip_model.safetensors"),
    *("pytorch_model.safetensors", "adapter_model.safetensors", "model-00001-of-00002.safetensors"),
)


def models() -> tuple[Siglip2VisionModel, Siglip2VisionModel]:
    """The model, and another of the same shape."""
    model = small(Siglip2VisionModel, num_hidden_layers=1)
    other = small(Siglip2VisionModel, num_hidden_layers=1, scale=0.3)
    return model, other


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Directories of the model, of the model in shards, and of another model in more shards."""
    root = tmp_path_factory.mktemp("saved")
    model, other = models()
    model.save_pretrained(root / "whole")
    model.save_pretrained(root / "shards", max_shard_size="300KB")
    other.save_pretrained(root / "older", max_shard_size="100KB")
    assert len(list((root / "shards").glob("*.safetensors"))) > 1
    return root / "whole", root / "shards", root / "older"


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "model"))


def read_as_transformers(directory: Path) -> tuple[str, ...]:
    """Check that we read what transformers reads; give what was left out."""
    theirs = Siglip2VisionModel.from_pretrained(directory).state_dict()[TENSOR]
    checkpoint = read(directory)
    torch.testing.assert_close(checkpoint.weights[OURS], theirs, rtol=0, atol=0)
    return checkpoint.left_out


def refused(directory: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read(directory)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("stray", STRAYS)
def test_other_weights_beside_the_model_are_left_out(stray: str, saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[0], tmp_path)
    _, other = models()
    save_file({k: v.contiguous() for k, v in other.state_dict().items()}, directory / stray, {"format": "pt"})
    assert read_as_transformers(directory) == (stray,)


def test_shards_of_an_older_save_are_left_out(saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[1], tmp_path)
    older = {path.name for path in saved[2].glob("*.safetensors")}
    for name in older:
        shutil.copy(saved[2] / name, directory)
    assert set(read_as_transformers(directory)) == older


def test_one_file_comes_before_an_index(saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[2], tmp_path)
    shutil.copy(saved[0] / "model.safetensors", directory)
    assert INDEX in read_as_transformers(directory)


def test_the_config_may_name_the_file(saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[0], tmp_path)
    _, other = models()
    save_file(other.state_dict(), directory / "tuned.safetensors", {"format": "pt"})
    edit(directory / "config.json", transformers_weights="tuned.safetensors")
    assert read_as_transformers(directory) == ("model.safetensors",)
    edit(directory / "config.json", transformers_weights="../tuned.safetensors")
    refused(directory, "transformers_weights = '../tuned.safetensors' is not supported")


def test_the_only_file_is_the_model_whatever_its_name(saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[0], tmp_path)
    (directory / "model.safetensors").rename(directory / "finetuned.safetensors")
    assert read(directory).digest() == read(saved[0]).digest()


def test_a_missing_shard_is_named_as_a_file(saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[1], tmp_path)
    shard = sorted(directory.glob("*.safetensors"))[1]
    shard.unlink()
    refused(directory, f"the file {shard.name} is missing, which {INDEX} names")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("a.safetensors", "b.safetensors"), r"several files may be the model.*: a\.safetensors, b\.safetensors"),
        (("adapter_model.safetensors",), r"adapter_model\.safetensors is an adapter"),
        (("model-00001-of-00003.safetensors",), "is one of 3 shards"),
        (("pytorch_model.bin",), r"found only pytorch_model\.bin, a pickle"),
        ((), "found none"),
    ],
)
def test_what_may_be_the_model_and_may_not(
    names: tuple[str, ...], match: str, saved: tuple[Path, ...], tmp_path: Path
) -> None:
    shutil.copy(saved[0] / "config.json", tmp_path)
    for name in names:
        shutil.copy(saved[0] / "model.safetensors", tmp_path / name)
    refused(tmp_path, match)


@pytest.mark.parametrize(
    ("weight_map", "match"),
    [
        ({"x": "../elsewhere/model.safetensors"}, r"names '\.\./elsewhere/model\.safetensors'"),
        ({"x": "/etc/model.safetensors"}, "names '/etc/model.safetensors'"),
        ({"x": "pytorch_model.bin"}, r"names 'pytorch_model\.bin'"),
        ({"x": 3}, "expected a weight_map from tensors to files"),
        ([], "expected a weight_map from tensors to files"),
        (None, "expected a weight_map from tensors to files"),
        ({"x": "part.safetensors"}, r"says that tensor 'x' is in part\.safetensors, found it nowhere"),
    ],
)
def test_an_index_that_does_not_fit(weight_map: object, match: str, saved: tuple[Path, ...], tmp_path: Path) -> None:
    shutil.copy(saved[0] / "config.json", tmp_path)
    shutil.copy(saved[0] / "model.safetensors", tmp_path / "part.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, match)


def test_a_tensor_in_two_shards(saved: tuple[Path, ...], tmp_path: Path) -> None:
    directory = copied(saved[1], tmp_path)
    first, second = sorted(directory.glob("*.safetensors"))[:2]
    name = next(iter(load_file(first)))
    save_file(load_file(second) | {name: load_file(first)[name]}, second)
    refused(directory, f"tensor '{name}' is in {first.name} and in {second.name}")


def test_a_directory_that_is_an_adapter(saved: tuple[Path, ...], tmp_path: Path) -> None:
    """transformers loads the base that the adapter names, whatever lies beside it."""
    directory = copied(saved[0], tmp_path)
    (directory / "adapter_config.json").write_text("{}")
    refused(directory, "this directory is an adapter")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
