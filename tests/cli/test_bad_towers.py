"""Vision-language models that cannot be built: the command ends with 2 and says what is wrong, and leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Run

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
PROJECTOR = "model.visual.merger.linear_fc2.weight"


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        found = load_file(directory / WEIGHTS)
        change(found)
        save_file(found, directory / WEIGHTS)

    return write


def settings(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        found = json.loads((directory / name).read_text())
        change(found)
        (directory / name).write_text(json.dumps(found))

    return write


def no_tower(found: dict[str, torch.Tensor]) -> None:
    for name in [name for name in found if "visual" in name]:
        del found[name]


def two_towers(found: dict[str, torch.Tensor]) -> None:
    found.update({f"teacher.{name}": tensor.clone() for name, tensor in found.items() if "visual" in name})


def another_projector(found: dict[str, torch.Tensor]) -> None:
    found[PROJECTOR] = found[PROJECTOR][:-1].contiguous()


def a_shard_less(directory: Path) -> None:
    found = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    shards = {name: f"model-{1 + (name == PROJECTOR):05}-of-00002.safetensors" for name in found}
    first = {name: tensor for name, tensor in found.items() if name != PROJECTOR}
    save_file(first, directory / "model-00001-of-00002.safetensors")
    (directory / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            settings(CONFIG, lambda config: config.pop("vision_config")),
            "expected an object 'vision_config', found None",
        ),
        (tensors(no_tower), "config.json says Qwen3-VL, and no file holds an image tower of it"),
        (tensors(two_towers), "are of two image towers"),
        (a_shard_less, "the file model-00002-of-00002.safetensors is missing"),
        (tensors(another_projector), "'visual.merger.linear_fc2.weight': expected shape [64, 384], found [63, 384]"),
        (
            settings(CONFIG, lambda config: config["vision_config"].update(rope_parameters={"rope_type": "yarn"})),
            "rope_type = 'yarn' is not supported",
        ),
        (
            settings(PROCESSOR, lambda processor: processor.update(merge_size=3)),
            "merges 3x3 patches, config.json 2x2",
        ),
        (settings(CONFIG, lambda config: config.update(model_type="qwen2_5_vl")), "attends in windows"),
    ],
    ids=["no vision_config", "no tower", "two towers", "shard", "projector", "rope", "merge", "other tower"],
)
def test_what_is_wrong_is_named(
    run: Run, vlm_directory: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(vlm_directory, directory)
    change(directory)
    result = run("build", "--profile", "vlm", "--model", directory, "-o", tmp_path / "bundle")
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    shown = run("inspect", directory)
    assert (shown.exit_code, words in " ".join(shown.output.split())) == (0, True)


def test_inspect_names_the_family_and_says_whose_tokens_these_are(run: Run, vlm_directory: Path) -> None:
    document = json.loads(run("inspect", vlm_directory, "--json").stdout)
    assert document["family"] == "Qwen3-VL"
    assert "Qwen3-VL-Embedding" in document["note"]
    shown = " ".join(run("inspect", vlm_directory).output.split())
    assert f"image tower of Qwen3-VL; {document['note']}" in shown
    assert "the tower's tokens, not vectors that the whole model makes of an image" in shown
