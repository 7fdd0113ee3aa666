"""Only what holds the tower is opened, and what is not understood is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.families.registry import FAMILIES, OTHERS
from naflex_deploy.compiler.checkpoints.files.choice import PREPROCESSOR_CONFIG
from naflex_deploy.core.errors import CheckpointError
from tests.support.hub import serving
from tests.support.vlms import saved

GIGABYTE = 2**30
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole() -> Path:
    """A whole Qwen3-VL in one file."""
    return saved("Qwen3VL")


@pytest.fixture(scope="module")
def root(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``org/large``: the same with its tower in the second and fourth of four shards. The others are of 15 GB, hold
    nothing, and cannot be opened."""
    root = tmp_path_factory.mktemp("hub")
    large = root / "org/large"
    large.mkdir(parents=True)
    for name in ("config.json", PREPROCESSOR_CONFIG):
        shutil.copy(whole / name, large)
    tensors = load_file(whole / "model.safetensors")
    placed = {}
    for number in range(1, 5):
        name = f"model-{number:05}-of-00004.safetensors"
        tower = [key for key in tensors if "visual" in key]
        own = {2: tower[::2], 4: tower[1::2]}.get(number, [])
        rest = [key for key in tensors if "visual" not in key][number - 1 :: 4]
        placed |= dict.fromkeys([*own, *rest], name)
        if own:
            save_file({key: tensors[key].contiguous() for key in [*own, *rest]}, large / name)
        else:
            (large / name).touch()
            os.truncate(large / name, 15 * GIGABYTE)
    (large / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return root


def test_no_other_shard_is_opened(root: Path, whole: Path) -> None:
    checkpoint = read(root / "org/large")
    assert checkpoint.digest() == read(whole).digest()
    assert checkpoint.left_out == ()


def test_other_shards_may_be_missing(root: Path, whole: Path, tmp_path: Path) -> None:
    shards = [f"model-{number:05}-of-00004.safetensors" for number in (2, 4)]
    for name in ("config.json", PREPROCESSOR_CONFIG, INDEX, *shards):
        shutil.copy(root / "org/large" / name, tmp_path)
    assert read(tmp_path).digest() == read(whole).digest()
    (tmp_path / "model-00004-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the file model-00004-of-00004\.safetensors is missing"):
        read(tmp_path)


def test_no_other_shard_is_downloaded(root: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "hub", ignore=lambda _, names: [n for n in names if "00001" in n or "00003" in n])
    for number in (1, 3):
        (tmp_path / f"hub/org/large/model-{number:05}-of-00004.safetensors").write_bytes(b"never read")
    with serving(tmp_path / "hub", tmp_path / "cache") as hub:
        assert read("hf:org/large").digest() == read(whole).digest()
        assert sorted(hub.fetched) == [
            "config.json",
            "model-00002-of-00004.safetensors",
            "model-00004-of-00004.safetensors",
            INDEX,
            PREPROCESSOR_CONFIG,
        ]


Tensors = dict[str, torch.Tensor]


def _without_tower(tensors: Tensors) -> None:
    for name in [name for name in tensors if "visual" in name]:
        del tensors[name]


def _two_towers(tensors: Tensors) -> None:
    for name in [name for name in tensors if "visual" in name]:
        tensors[f"teacher.{name}"] = tensors[name].clone()


def _another_projector(tensors: Tensors) -> None:
    name = "model.visual.merger.linear_fc2.weight"
    tensors[name] = tensors[name][:-1].contiguous()


def _unknown_part(tensors: Tensors) -> None:
    tensors["model.visual.blocks.0.attn.q_norm.weight"] = torch.ones(24)


def _no_bias(tensors: Tensors) -> None:
    del tensors["model.visual.deepstack_merger_list.1.norm.bias"]


def _deeper(tensors: Tensors) -> None:
    for name in [name for name in tensors if "visual.blocks.2." in name]:
        tensors[name.replace("blocks.2.", "blocks.3.")] = tensors[name].clone()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_tower, r"config\.json says Qwen3-VL, and no file holds an image tower"),
        (_two_towers, r"'teacher\.model\.visual\..*' and 'visual\..*' are of two image towers"),
        (
            _another_projector,
            r"'visual\.merger\.linear_fc2\.weight': expected shape \[64, 384\], found \[63, 384\]",
        ),
        (_unknown_part, r"unexpected tensor 'visual\.blocks\.0\.attn\.q_norm\.weight'"),
        (_no_bias, r"tensor 'visual\.deepstack_merger_list\.1\.norm\.bias' is missing"),
        (_deeper, r"unexpected tensor 'visual\.blocks\.3\..*' and 11 more"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    whole: Path, tmp_path: Path, change: Callable[[Tensors], None], words: str
) -> None:
    tensors = load_file(whole / "model.safetensors")
    change(tensors)
    shutil.copy(whole / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path)


def _vision(**options: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["vision_config"].update(options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_vision(rope_parameters={"rope_type": "yarn"}), "rope_type = 'yarn' is not supported"),
        (_vision(rope_parameters={"rope_theta": -1}), "rope_theta = -1, expected a positive number"),
        (_vision(num_position_embeddings=143), "num_position_embeddings = 143 is not square"),
        (_vision(deepstack_visual_indexes=[0, 3]), "a tap after block 3, of 3 blocks"),
        (_vision(deepstack_visual_indexes=[0]), r"unexpected tensor 'visual\.deepstack_merger_list\.1\."),
        (_vision(hidden_act="quick_gelu"), "hidden_act = 'quick_gelu' is not supported"),
        (_vision(in_channels=1), "in_channels = 1 is not supported"),
        (lambda config: config.update(vision_config=None), "expected an object 'vision_config', found None"),
        (lambda config: config.pop("vision_config"), "expected an object 'vision_config', found None"),
    ],
)
def test_options_that_do_not_fit_are_named(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    config = json.loads((whole / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(whole / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path)


def test_a_rotary_embedding_of_a_tower_that_has_none_is_named(tmp_path: Path) -> None:
    directory = saved("Lfm2Vl")
    config = json.loads((directory / "config.json").read_text())
    _vision(rope_parameters={"rope_type": "axial"})(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"rope_parameters = \{'rope_type': 'axial'\} is not supported"):
        read(tmp_path)


def test_qwen3_omni_is_read_whole_and_of_the_part_that_sees(tmp_path: Path) -> None:
    part = saved("Qwen3OmniMoeThinker")
    config = json.loads((part / "config.json").read_text())
    whole = {"model_type": "qwen3_omni_moe", "thinker_config": config, "talker_config": {}, "code2wav_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    (tmp_path / PREPROCESSOR_CONFIG).symlink_to(part / PREPROCESSOR_CONFIG)
    tensors = {
        f"thinker.{name.removeprefix('model.')}": tensor
        for name, tensor in load_file(part / "model.safetensors").items()
    }
    save_file(tensors | {"talker.codec_head.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    found = read(tmp_path)
    assert found.family == "Qwen3-Omni"
    assert found.digest() == read(part).digest()
    assert "deepstack:1" in found.architecture.outputs


@pytest.mark.parametrize(("kind", "why"), [*OTHERS.items(), ("new_vl", "nothing is known of their towers")])
def test_other_towers_are_refused_by_what_they_are(tmp_path: Path, kind: str, why: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": {}}))
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path)
    assert f"models of type '{kind}' are not supported: {why}" in caught.value.message
    assert all(family.title in (caught.value.hint or "") for family in FAMILIES)


def test_a_model_type_is_of_one_family() -> None:
    types = [kind for family in FAMILIES for kind in family.model_types]
    assert len(set(types)) == len(types)
    assert not set(types) & OTHERS.keys()
