"""The example runs as it is, with weights under which a wrong tower would be noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples.replace_vision_tower import EngineTower, compare, narrow_model
from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.core.errors import CheckpointError
from tests.support.weights import reseed


def test_the_engine_gives_what_the_tower_gave(tmp_path: Path) -> None:
    model = narrow_model()
    reseed(model.model.vision_tower, scale=0.2, gain=2.0)
    errors = compare(model, tmp_path / "bundle")
    assert isinstance(model.model.vision_tower, EngineTower)
    assert errors["tokens"] <= 1e-5
    assert errors["features"] <= 1e-5
    assert errors["logits"] <= 1e-4
    assert errors["answer"] == 0


def test_the_tower_is_read_from_the_directory_of_the_whole_model(tmp_path: Path) -> None:
    model = narrow_model()
    model.save_pretrained(tmp_path)
    whole, tower = read(tmp_path).weights, read(model.model.vision_tower).weights
    assert all(torch.equal(whole[name], tensor) for name, tensor in tower.items())
    assert all(name.startswith("projector.") for name in whole.keys() - tower.keys())
    with pytest.raises(CheckpointError, match="cannot read a module of class Lfm2VlForConditionalGeneration"):
        read(model)
