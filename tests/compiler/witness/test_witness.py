"""The witness sees what the reader gets wrong, and says why it was not asked.

The process of the original runs without what tests/support/imports.py does to torchvision, and passes without it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import timm
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from transformers import Siglip2Model

from naflex_deploy.cli import main
from naflex_deploy.compiler.checkpoints import read, tensors, text_checkpoint, weights
from naflex_deploy.compiler.checkpoints.files import choice
from naflex_deploy.compiler.checkpoints.hf import processor, reader
from naflex_deploy.compiler.checkpoints.text_checkpoint import read_text
from naflex_deploy.compiler.witness import towers
from naflex_deploy.compiler.witness.original import NoOriginal
from naflex_deploy.compiler.witness.process import Answer, Asked, asking
from naflex_deploy.compiler.witness.request import Request
from naflex_deploy.compiler.witness.witness import outcome, request_for
from naflex_deploy.compiler.zero_shot import read_labels, with_labels
from naflex_deploy.core.errors import GateError
from naflex_deploy.core.manifest import Manifest
from tests.support.naflexvit import named
from tests.support.originals import SHIM, asked_for_real, ours, package
from tests.support.two_towers import tokenizer, two_towers
from tests.support.vlms import VLMS, saved

SETTINGS = ("image.tokens=64", "engine.backends=['onnxruntime']", "outputs=['pooled', 'tokens']")
LABELS = "cat\ta photo of a cat\ncat\ta bad photo of a CAT\ndog\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towers, of which everything that can be misread is stated and is not the default."""
    path = tmp_path_factory.mktemp("model")
    model = two_towers()
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    edit(path / "tokenizer_config.json", padding_side=None)
    settings = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "resample": 3}
    mean = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (path / "processor_config.json").write_text(json.dumps({"image_processor": settings | mean}))
    average = {name: 0.9 * tensor for name, tensor in load_file(path / "model.safetensors").items()}
    save_file(average, path / "model_ema.safetensors")
    (path / "labels.txt").write_text(LABELS)
    return path


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture(scope="module")
def built(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Answer]:
    """The bundle of it, what the command printed, and what the original said."""
    answers: list[Answer] = []
    wait = Asked.wait

    def recording(asked: Asked) -> Answer:
        answers.append(wait(asked))
        return answers[-1]

    bundle = tmp_path_factory.mktemp("built") / "bundle"
    arguments = ["build", "--profile", "photo", "--model", directory, "--labels", directory / "labels.txt", "--text"]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    with asked_for_real(), patch.object(Asked, "wait", recording):
        result = CliRunner().invoke(main, [str(one) for one in (*arguments, "-o", bundle)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return bundle, result.output, answers[0]


def test_a_build_passes_against_transformers(built: tuple[Path, str, Answer]) -> None:
    bundle, printed, _ = built
    witness = Manifest.read(bundle).witness
    assert witness is not None
    assert (witness.status, witness.reason) == ("passed", "")
    assert witness.original.startswith("Siglip2Model of transformers ")
    assert witness.errors.keys() == {"pooled", "tokens", "logits", "texts"}
    assert max(witness.errors.values()) <= 1e-5
    assert len(set(witness.grids)) >= 5
    assert f"witness  passed against {witness.original}: largest error" in printed.replace("\n", " ")
    shown = CliRunner().invoke(main, ["inspect", str(bundle)]).output
    assert "witness passed against Siglip2Model of transformers" in shown
    assert "processor_config.json: image_processor: image_mean" in " ".join(shown.split())


def labelled(directory: Path) -> Any:
    return with_labels(read(directory), read_text(directory), read_labels(directory / "labels.txt"))


def other_file(names: Any, *rest: Any) -> Any:
    """Takes the file that sorts last."""
    found = choice.choose_files(names, *rest)
    return replace(found, weights=(max(name for name in names if name.endswith(".safetensors")),))


def default_mean(*arguments: Any) -> Any:
    return (0.5,) * 3, (0.5,) * 3, []


def padded_right(*arguments: Any) -> Any:
    return text_checkpoint._tokenization(*arguments).model_copy(update={"side": "right"})


def averaging(source: str, **options: Any) -> Any:
    return reader._architecture(source, **options | {"pooling": "mean"})


MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "file choice": (choice, "choose_files", other_file, "pooled of an image"),
    "mean": (processor, "_normalisation", default_mean, "pooled of an image"),
    "padding side": (text_checkpoint, "_tokenization", padded_right, "logits of an image"),
    "pooling": (reader, "_architecture", averaging, "pooled of an image"),
}


def test_the_packed_model_itself_passes(directory: Path, built: tuple[Path, str, Answer]) -> None:
    """So that what the mutations below show is theirs."""
    witness = ours(labelled(directory), built[2], read_text(directory))
    assert (witness.status, witness.reason) == ("passed", "")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_reader_that_misreads_is_seen(
    name: str, directory: Path, built: tuple[Path, str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function, mutated, said = MUTATIONS[name]
    original = getattr(module, function)

    def mutant(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as inner:
            inner.setattr(module, function, original)
            return mutated(*arguments, **options)

    monkeypatch.setattr(module, function, mutant)
    checkpoint = read(directory)
    if name != "pooling":
        checkpoint = with_labels(checkpoint, read_text(directory), read_labels(directory / "labels.txt"))
    witness = ours(checkpoint, built[2], read_text(directory))
    assert witness.status == "failed"
    assert said in witness.reason


def test_a_reader_that_mistakes_prefixes_is_seen(
    directory: Path, built: tuple[Path, str, Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers passes an average in the same file over; the mutant takes it for the model."""
    other = Path(shutil.copytree(directory, tmp_path / "other"))
    path = other / "model.safetensors"
    own = load_file(path)
    save_file(own | {f"ema_model.{name}": 0.9 * tensor for name, tensor in own.items()}, path)
    theirs = Siglip2Model.from_pretrained(other).state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in own.items())
    monkeypatch.setattr(
        weights,
        "unwrapped",
        lambda found, source: {tensors.bare_name(name): found[name] for name in sorted(found)[::-1]},
    )
    witness = ours(labelled(other), built[2])
    assert witness.status == "failed"
    assert "pooled of an image of 6x6 patches is off by" in witness.reason


def test_a_difference_ends_the_build(directory: Path, built: tuple[Path, str, Answer], tmp_path: Path) -> None:
    bundle, _, answer = built
    wrong = {name: values + (name == "pooled/3") * np.float32(0.01) for name, values in answer.outputs.items()}

    class Wrong:
        def wait(self) -> Answer:
            return Answer(original="Siglip2Model", outputs=wrong)

    manifest = Manifest.read(bundle)
    with pytest.raises(GateError, match="does not give what Siglip2Model gives: pooled of an image of 1x20") as caught:
        outcome(Wrong(), "", bundle, labelled(directory), manifest.text)  # type: ignore[arg-type]
    assert caught.value.code == 3
    lacking = {name: values for name, values in answer.outputs.items() if name != "texts"}
    wrong.clear()
    wrong |= lacking
    with pytest.raises(GateError, match="texts: expected shape none"):
        outcome(Wrong(), "", bundle, labelled(directory), manifest.text)  # type: ignore[arg-type]


def answer_to(request: Request) -> Answer:
    with asking(request) as asked:
        assert asked
        return asked.wait()


def requested(directory: Path) -> Request:
    with asked_for_real():
        request = request_for(read(directory), ("pooled", "tokens"), text=False, wanted=True)
    assert isinstance(request, Request)
    return request


def test_timm_passes_where_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = named("naflexvit_base_patch16_par_gap", num_classes=3, class_token=True)
    arguments = {"embed_dim": 96, "depth": 2, "num_heads": 3, "patch_size": 8, "class_token": True}
    save_for_hf(model, tmp_path / "model", model_args=arguments, safe_serialization=True)
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path / "site", "sitecustomize", SHIM)))
    answer = answer_to(requested(tmp_path / "model"))
    assert answer.reason == ""
    assert answer.original == f"NaFlexVit of timm {timm.__version__}"
    witness = ours(read(tmp_path / "model"), answer)
    assert (witness.status, witness.reason) == ("passed", "")
    assert witness.errors.keys() == {"pooled", "tokens", "logits"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "transformers is installed and does not import: RuntimeError: operator torchvision::nms does not exist",
        ),
        ("import of_next_year", "transformers is installed and does not import: No module named 'of_next_year'"),
        (
            "import sys; sys.exit('killed')",
            "the process of the original ended with 1: killed",
        ),
    ],
)
def test_what_does_not_import_is_not_absent(
    content: str, reason: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path, "transformers", content)))
    assert answer_to(requested(directory)).reason == reason


def test_reasons_for_no_original(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = read(directory)

    def reason(wanted: bool = True, **changes: Any) -> object:
        return request_for(replace(checkpoint, **changes), ("pooled",), text=False, wanted=wanted)

    assert reason(wanted=False) == "--no-witness"
    assert reason() == "transformers is not installed"
    assert reason(original=None) == f"no library loads {directory} as it is"
    witness = outcome(None, "transformers is not installed", directory, checkpoint, None)
    assert (witness.status, witness.reason) == ("skipped", "transformers is not installed")


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3VL",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("Cosmos3Edge", "Kimi_K25", "Lfm2Vl", "PaddleOCRVL", "VideoLlama3")
        ),
    ],
)
def test_a_whole_vision_language_model_is_the_witness_of_its_tower(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package(tmp_path / "site", "sitecustomize", SHIM)))
    vlm, directory = VLMS[name], saved(name)
    answer = answer_to(requested(directory))
    assert answer.reason == ""
    assert answer.original == f"{vlm.kind} of transformers {transformers.__version__}"
    witness = ours(read(directory), answer)
    assert (witness.status, witness.reason) == ("passed", "")
    assert witness.errors.keys() >= {"tokens", "pooled", "vlm"}
    assert ("deepstack:1" in witness.errors) == (name == "Qwen3VL")


def test_models_that_are_not_loaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "qwen3_vl", "vision_config": {}, "architectures": ["Qwen9ForConditionalGeneration"]}
    (tmp_path / "model.safetensors").touch()

    def reason(outputs: tuple[str, ...] = ("vlm",)) -> str:
        request = {"path": str(tmp_path), "outputs": outputs, "lora": ""}
        with pytest.raises(NoOriginal) as caught:
            towers.run(transformers, config, request, [])
        return str(caught.value)

    assert reason(("vlm", "tokens:-2")) == "tokens:-2 of a vision-language model is not compared"
    assert reason() == f"transformers {transformers.__version__} has no class 'Qwen9ForConditionalGeneration'"
    os.truncate(tmp_path / "model.safetensors", 9 * 10**9)
    assert reason() == "the whole model has 9.0 GB of weights, more than are loaded for a comparison"
