"""``naflex-deploy embed --for``: from the directory of a whole Qwen3-VL to what vLLM and SGLang read."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import naflex_deploy as nd
from naflex_deploy.cli import embed_for as embed_for_module
from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.runtime.embedding.handover import INDEX
from naflex_deploy.runtime.engine import Engine
from tests.cli.conftest import Run
from tests.support.families import processor
from tests.support.packed_engine import packed_engine
from tests.support.vlms import VLMS, saved

SIZES = {"a.png": (256, 288), "b.png": (512, 128), "c.png": (320, 320)}
SETTINGS = ("engine.onnxruntime.budgets=[1024]", "engine.backends=['onnxruntime']", "engine.precision=fp32")


@pytest.fixture(scope="module")
def model() -> Path:
    """The directory of a whole model."""
    return saved("Qwen3VL")


@pytest.fixture
def engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """What the command loads in the place of a bundle, which takes long to build: an engine of the packed model."""
    outputs = ("vlm", "deepstack:0", "deepstack:1")
    found = packed_engine(read(model), outputs, "image.fit=model", "image.tokens=auto")
    monkeypatch.setattr(embed_for_module, "load", lambda bundle, variant, settings: found)
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path, images: Path) -> list[np.ndarray]:
    """[g, width · (1 + taps)] of each image, of the whole model with its own processor."""
    whole = VLMS["Qwen3VL"].load(model)
    pictures = [Image.open(images / name) for name in SIZES]
    inputs = dict(processor("qwen3_vl", backend="pil")(pictures, return_tensors="pt"))
    with torch.inference_mode():
        found = whole.model.get_image_features(inputs["pixel_values"].double(), inputs["image_grid_thw"])
    every = [found.pooler_output, *found.deepstack_features]
    return [torch.cat(parts, dim=1).numpy() for parts in zip(*every, strict=True)]


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max()


TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 1e-3, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_vllm(
    run: Run, engine: Engine, images: Path, expected: list[np.ndarray], tmp_path: Path, dtype: torch.dtype
) -> None:
    name = str(dtype).removeprefix("torch.")
    options = () if name == "float16" else ("--dtype", name)
    result = run("embed", "bundle", images, "--for", "vllm", "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "3 images of" in result.output
    lines = [json.loads(line) for line in (tmp_path / "out" / INDEX).read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == list(SIZES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {INDEX, *(line["file"] for line in lines)}
    for line, values in zip(lines, expected, strict=True):
        part = json.loads((tmp_path / "out" / line["file"]).read_text())
        assert part.keys() == {"type", "image_embeds"}
        tensors = {
            key: torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)
            for key, text in part["image_embeds"].items()
        }
        assert tensors["image_embeds"].dtype == dtype
        close(tensors["image_embeds"].double().numpy(), values, TOLERANCE[dtype])
        assert [tensors["image_grid_thw"].tolist()] == line["grid_thw"]
        assert (line["placeholders"], line["dtype"]) == (len(values), name)


def test_sglang(run: Run, engine: Engine, images: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    options = ("--for", "sglang", "--dtype", "float32", "--json")
    result = run("embed", "bundle", images, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["for"], document["images"], document["placeholders"]) == ("sglang", 3, sum(map(len, expected)))
    lines = [json.loads(line) for line in (tmp_path / "out" / INDEX).read_text().splitlines()]
    for line, values in zip(lines, expected, strict=True):
        item = dict(np.load(tmp_path / "out" / line["file"]))
        assert (str(item["format"]), str(item["modality"])) == ("processor_output", "IMAGE")
        close(item["precomputed_embeddings"], values, 1e-5)
        assert item["image_grid_thw"].tolist() == line["grid_thw"]


def test_a_bad_image_leaves_the_others(run: Run, engine: Engine, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (10, 2001)).save(tmp_path / "thin.png")
    inputs = (tmp_path / "thin.png", images / "a.png")
    result = run("embed", "bundle", *inputs, "--for", "vllm", "-o", tmp_path / "out")
    assert result.exit_code == 6
    assert "expected a longer side of at most 200 times the shorter one" in result.output
    assert len((tmp_path / "out" / INDEX).read_text().splitlines()) == 1


@pytest.mark.parametrize(("family", "form"), [("Qwen3-VL", ""), ("PaddleOCR-VL", "vllm"), ("LFM2-VL", "vllm")])
def test_a_server_that_takes_no_tokens_of_the_family_is_named(
    run: Run, engine: Engine, images: Path, tmp_path: Path, family: str, form: str
) -> None:
    named = engine.manifest.model.model_copy(update={"family": family})
    engine.manifest = engine.manifest.model_copy(update={"model": named})
    for server in ("vllm", "sglang"):
        result = run("embed", "bundle", images / "c.png", "--for", server, "-o", tmp_path / server)
        assert result.exit_code == 0, result.output
        assert (f"takes no tokens of {family}, only pixels" in result.stderr) is (server == form)


def test_sglang_in_bfloat16(run: Run, engine: Engine, images: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    """Its bits lie in uint16, as numpy has no such type."""
    result = run("embed", "bundle", images / "a.png", "-o", tmp_path / "out", "--for", "sglang", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    (line,) = [json.loads(line) for line in (tmp_path / "out" / INDEX).read_text().splitlines()]
    feature = torch.from_numpy(np.load(tmp_path / "out" / line["file"])["precomputed_embeddings"]).view(torch.bfloat16)
    assert line["dtype"] == "bfloat16"
    close(feature.double().numpy(), expected[0], TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--for", "vllm"), "--for writes a folder"),
        (("--for", "vllm", "-o", "out", "--resume"), "--for goes with neither"),
        (("-o", "out.npz", "--dtype", "float16"), "--dtype is of the tokens that --for writes"),
    ],
)
def test_options_that_do_not_go_together(
    run: Run, engine: Engine, images: Path, options: tuple[str, ...], words: str
) -> None:
    result = run("embed", "bundle", images / "a.png", *options)
    assert result.exit_code == 2, result.output
    assert words in result.output


@pytest.mark.exhaustive
def test_a_bundle_that_was_built(
    run: Run, model: Path, images: Path, expected: list[np.ndarray], tmp_path: Path
) -> None:
    nd.build("vlm", model, tmp_path / "bundle", settings=SETTINGS, witness=False)
    result = run("embed", tmp_path / "bundle", images, "--for", "sglang", "-o", tmp_path / "out", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    for line, values in zip((tmp_path / "out" / INDEX).read_text().splitlines(), expected, strict=True):
        close(np.load(tmp_path / "out" / json.loads(line)["file"])["precomputed_embeddings"], values, 1e-5)
    result = run("embed", tmp_path / "bundle", images, "-o", tmp_path / "out.npz")
    assert result.exit_code == 2
    assert "the bundle has no output 'pooled'" in result.output


def test_a_bundle_without_such_tokens(run: Run, images: Path, bundle: Path, tmp_path: Path) -> None:
    result = run("embed", bundle, images / "a.png", "--for", "vllm", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the bundle lacks 'vlm', which a language model needs" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
