"""Bad directories end a build with one line and exit code 2, before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Siglip2VisionModel

from naflex_deploy.cli import main
from tests.support.siglip2 import small

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    small(Siglip2VisionModel, num_hidden_layers=1).save_pretrained(path)
    return path


def two_models(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "b.safetensors")
    (path / "model.safetensors").rename(path / "a.safetensors")


def index(**weight_map: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "model.safetensors").rename(path / "part.safetensors")
        (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return write


def content(name: str, value: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        old = json.loads((path / name).read_text()) if (path / name).exists() else {}
        (path / name).write_text(json.dumps(old | value if isinstance(value, dict) else value))

    return write


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "two models": (two_models, "several files may be the model"),
    "an index that leaves the directory": (index(x="../part.safetensors"), "names '../part.safetensors'"),
    "an index of other tensors": (index(x="part.safetensors"), "says that tensor 'x' is in part.safetensors"),
    "a processor of another class": (
        content("preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"}),
        "image_processor_type = 'ViTImageProcessor' is not supported",
    ),
    "a list for a config": (content("config.json", [1]), "config.json: expected an object, found list"),
    "a number for a processor": (content("processor_config.json", 3), "processor_config.json: expected an object"),
    "a text for a processor": (content("preprocessor_config.json", "x"), "expected an object, found str"),
    "a list for an index": (content(INDEX, [1]), ""),
    "a text for a width": (content("config.json", {"hidden_size": "96"}), "hidden_size: expected int, found '96'"),
    "a text for a mean": (content("preprocessor_config.json", {"image_mean": "0.5"}), "image_mean = '0.5'"),
    "a number for a dictionary": (content("config.json", {"vision_config": 3}), "expected an object for a tower"),
}


def build(path: Path, output: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["build", "--profile", "photo", "--model", str(path), "-o", str(output), *more])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_directory(name: str, saved: Path, tmp_path: Path) -> None:
    spoil, said = BAD[name]
    path = Path(shutil.copytree(saved, tmp_path / "model"))
    spoil(path)
    if name == "a list for an index":
        (path / "model.safetensors").rename(path / "part.safetensors")
        said = f"{INDEX}: expected an object, found list"
    code, printed = build(path, tmp_path / "bundle")
    assert code == 2
    assert said in printed
    assert "Traceback" not in printed
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("spoiled", ["another width", "another depth", "a config that is a list"])
def test_an_adapter_of_another_base(spoiled: str, saved: Path, tmp_path: Path) -> None:
    shape = {"another width": {"hidden_size": 48}, "another depth": {"num_hidden_layers": 2}}.get(spoiled, {})
    other = small(Siglip2VisionModel, **({"num_hidden_layers": 1} | shape))
    get_peft_model(other, LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path / "adapter"))
    if not shape:
        (tmp_path / "adapter" / "adapter_config.json").write_text("[1]")
    code, printed = build(saved, tmp_path / "bundle", "--lora", str(tmp_path / "adapter"))
    assert code == 2
    assert "adapter" in printed
    assert "Traceback" not in printed
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"]


def test_weights_of_another_model(saved: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(saved, tmp_path / "model"))
    save_file({"conv1.weight": torch.ones(2, 2)}, path / "model.safetensors")
    code, printed = build(path, tmp_path / "bundle")
    assert code == 2
    assert "is missing, expected shape" in printed
