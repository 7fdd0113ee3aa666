"""Names that wrappers of a training loop put before tensors, in every part of a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Siglip2ForImageClassification, Siglip2VisionModel

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.tensors import bare_name
from naflex_deploy.compiler.checkpoints.text_checkpoint import read_text
from naflex_deploy.core.errors import CheckpointError
from tests.support.naflexvit import named
from tests.support.siglip2 import small
from tests.support.two_towers import two_towers

PREFIXES = ("_orig_mod.", "module.", "model.", "ema_model.", "module._orig_mod.", "ema_model.module.", "model.model.")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    small(Siglip2VisionModel, num_hidden_layers=1).save_pretrained(root / "vision")
    small(Siglip2ForImageClassification, num_hidden_layers=1).save_pretrained(root / "classifier")
    two_towers().save_pretrained(root / "two")
    return root


def wrapped(source: Path, target: Path, prefix: str) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, target / "model.safetensors")
    return target


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["vision", "classifier", "two"])
def test_what_a_wrapper_puts_before_names_is_taken_off(kind: str, prefix: str, saved: Path, tmp_path: Path) -> None:
    directory = wrapped(saved / kind, tmp_path / "wrapped", prefix)
    assert read(directory).digest() == read(saved / kind).digest()
    if kind == "two":
        found, expected = read_text(directory), read_text(saved / kind)
        assert found.weights.keys() == expected.weights.keys()
        assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)


def test_a_tower_that_was_compiled_alone(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "two", tmp_path / "two")
    path = tmp_path / "two" / "model.safetensors"
    tensors = {name.replace("vision_model.", "vision_model._orig_mod."): t for name, t in load_file(path).items()}
    save_file(tensors, path)
    assert read(tmp_path / "two").digest() == read(saved / "two").digest()


def test_a_model_and_its_average_in_one_file_are_refused(saved: Path, tmp_path: Path) -> None:
    directory = wrapped(saved / "vision", tmp_path / "both", "model.")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"ema_{name}": tensor + 1 for name, tensor in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=r"both stand for the tensor .*: the file holds the model twice"):
        read(directory)


def test_a_student_and_its_teacher_are_refused(saved: Path, tmp_path: Path) -> None:
    directory = wrapped(saved / "vision", tmp_path / "both", "student.")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name.replace("student.", "teacher."): t + 1 for name, t in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=r"'student\.embeddings\.patch_embedding\.weight' and 'teacher"):
        read(directory)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["_orig_mod", "module", "model", "ema_model"])), st.sampled_from(["norm.weight", "w"]))
def test_any_combination_of_wrappers(wrappers: list[str], name: str) -> None:
    assert bare_name(".".join([*wrappers, name])) == name


class Mine(Siglip2VisionModel):
    """As people derive one for training."""


def test_modules_as_training_code_holds_them() -> None:
    model = small(Siglip2VisionModel, num_hidden_layers=1)
    digest = read(model).digest()
    assert read(torch.compile(model)).digest() == digest
    assert read(nn.DataParallel(model)).digest() == digest
    derived = Mine(model.config)
    derived.load_state_dict(model.state_dict())
    assert read(derived).digest() == digest
    timm = named("naflexvit_base_patch16_gap")
    assert read(nn.DataParallel(timm)).digest() == read(timm).digest()
