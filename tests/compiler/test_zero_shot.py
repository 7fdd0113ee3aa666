"""Labels and texts against the real `Siglip2Model` and its tokenizer."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Siglip2Model, Siglip2VisionModel

import naflex_deploy as nd
from naflex_deploy.compiler import text_tower as building
from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.text_checkpoint import read_text
from naflex_deploy.compiler.zero_shot import Label, cut_texts, read_labels, with_labels
from naflex_deploy.core.errors import BundleError, CheckpointError, GateError, MissingExtraError, UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.manifest import Manifest, Tokenization
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.text_encoder import TextEncoder, Tokenizer
from tests.support.siglip2 import small
from tests.support.two_towers import LENGTH, NAMES, SETTINGS, TEXTS, bundle, directory, tokenizer

__all__ = ["bundle", "directory"]


@pytest.fixture(scope="module")
def original(directory: Path) -> Siglip2Model:
    return Siglip2Model.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, (8 * h, 8 * w, 3), np.uint8) for h, w in ((3, 5), (1, 7), (6, 6))]


def rows(texts: list[str], side: str = "right") -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` as the model's own processor lays texts out."""
    found = tokenizer(side)(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def texts_of_labels() -> list[str]:
    return [text or name for name, text in zip(NAMES, TEXTS, strict=True)]


def expected(original: Siglip2Model, images: list[np.ndarray], texts: list[str]) -> np.ndarray:
    """[N, M] logits, image by image, on pixels of -1…1."""
    found_rows = []
    for image in images:
        h, w = image.shape[0] // 8, image.shape[1] // 8
        patches = image.reshape(h, 8, w, 8, 3).transpose(0, 2, 1, 3, 4).reshape(1, h * w, 192)
        with torch.inference_mode():
            found = original(
                **rows(texts),
                pixel_values=torch.from_numpy(patches.astype(np.float32)) / 127.5 - 1,
                pixel_attention_mask=torch.ones(1, h * w, dtype=torch.int64),
                spatial_shapes=torch.tensor([[h, w]]),
            )
        found_rows.append(found.logits_per_image.numpy()[0])
    return np.stack(found_rows)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_laid_out_as_transformers_does(side: str, tmp_path: Path) -> None:
    tokenizer(side).save_pretrained(tmp_path)
    own = Tokenizer(tmp_path / "tokenizer.json", Tokenization(length=LENGTH, pad_token="<pad>", side=side))
    expected_ids, expected_mask = rows(TEXTS, side).values()
    found_ids, found_mask = own.encode(TEXTS)
    np.testing.assert_array_equal(found_ids, expected_ids.numpy())
    np.testing.assert_array_equal(found_mask, expected_mask.bool().numpy())
    assert own([]).shape == (0, LENGTH)


def test_the_directory_says_how_texts_are_laid_out(directory: Path, tmp_path: Path) -> None:
    expected_layout = Tokenization(length=LENGTH, pad_token="<pad>", side="right", mask=True)
    assert read_text(directory).tokens == expected_layout
    other = shutil.copytree(directory, tmp_path / "other")
    tokenizer("left").save_pretrained(other)
    assert read_text(other).tokens.side == "left"


TOKENIZER_CONFIGS: dict[str, dict[str, object]] = {
    "as it is": {},
    "left": {"padding_side": "left"},
    "no side": {"padding_side": None},
    "no side, another class": {"padding_side": None, "tokenizer_class": "GemmaTokenizer"},
    "no mask": {"model_input_names": ["input_ids"]},
    "no mask, no side": {"model_input_names": ["input_ids"], "padding_side": None},
    "another padding token": {"pad_token": "<eos>"},
    "padding token as an object": {"pad_token": {"content": "<pad>", "__type": "AddedToken", "special": True}},
}


@pytest.mark.parametrize("changes", TOKENIZER_CONFIGS.values(), ids=TOKENIZER_CONFIGS)
def test_vectors_are_those_of_transformers_whatever_the_tokenizer_says(
    changes: dict[str, object], directory: Path, original: Siglip2Model, tmp_path: Path
) -> None:
    other = edited(directory, tmp_path, changes)
    own = AutoTokenizer.from_pretrained(other)
    laid_out = own(TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.inference_mode():
        reference = original.get_text_features(**laid_out).pooler_output.numpy()
    found = read_text(other).vectors(TEXTS).numpy()
    assert np.abs(found - reference).max() <= 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize(
    "changes",
    [
        {"padding_side": "middle"},
        {"truncation_side": "left"},
        {"pad_token": 3},
        {"model_input_names": "input_ids"},
    ],
    ids=str,
)
def test_what_the_tokenizer_cannot_say(changes: dict[str, object], directory: Path, tmp_path: Path) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(CheckpointError, match=f"tokenizer_config.json: {name} = {value!r} is not supported"):
        read_text(edited(directory, tmp_path, changes))


def edited(directory: Path, tmp_path: Path, changes: dict[str, object]) -> Path:
    """A copy whose tokenizer_config.json is changed; ``None`` removes a key."""
    other = shutil.copytree(directory, tmp_path / "other")
    path = other / "tokenizer_config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return other


def test_text_vectors_are_those_of_transformers(directory: Path, original: Siglip2Model, bundle: Path) -> None:
    with torch.inference_mode():
        reference = original.get_text_features(**rows(TEXTS)).pooler_output.numpy()
    encoder = nd.load(bundle).text
    assert encoder.spec.tokens.mask
    for found in (read_text(directory).vectors(TEXTS).numpy(), encoder.embed(TEXTS)):
        assert np.abs(found - reference).max() <= 1e-5 * np.abs(reference).max()
    assert encoder.embed([]).shape == (0, reference.shape[1])
    many = encoder.embed(TEXTS * 30)
    np.testing.assert_allclose(many[-len(TEXTS) :], many[: len(TEXTS)], atol=1e-5)


def test_logits_of_labels_are_those_of_transformers(bundle: Path, original: Siglip2Model, images: list) -> None:
    reference = expected(original, images, texts_of_labels())
    assert np.ptp(reference) > 10  # The values differ enough for a wrong one to be noticed.
    engine = nd.load(bundle)
    results = sorted(engine.stream(images, ("logits", "pooled")), key=lambda result: result.input)
    found = np.stack([result.outputs["logits"] for result in results])
    assert np.abs(found - reference).max() <= 1e-4
    pooled = np.stack([result.outputs["pooled"] for result in results])
    retrieved = engine.text.logits(pooled, engine.text.embed(texts_of_labels()))
    assert np.abs(retrieved - reference).max() <= 1e-4


def test_similarity_is_the_cosine_of_images_and_texts(bundle: Path, original: Siglip2Model, images: list) -> None:
    engine = nd.load(bundle)
    reference = (expected(original, images, TEXTS) + 15) / 110  # undoes the scale and the bias of the logits
    found = engine.similarity(images, TEXTS)
    assert (found.dtype, found.shape) == (np.float32, (len(images), len(TEXTS)))
    assert np.abs(found - reference).max() <= 1e-5
    assert np.abs(engine.similarity(images[0], TEXTS) - reference[0]).max() <= 1e-5
    assert np.abs(engine.similarity(images, TEXTS[1]) - reference[:, 1]).max() <= 1e-5
    assert np.shape(engine.similarity(images[0], TEXTS[1])) == ()


def test_classes_have_names_and_probabilities(bundle: Path, original: Siglip2Model, images: list) -> None:
    probabilities = torch.from_numpy(expected(original, images, texts_of_labels())).sigmoid().numpy()
    for found, reference in zip(nd.load(bundle).classify(images, top=9), probabilities, strict=True):
        # 'x' is named from a score of 1 on, which it never reaches.
        order = [index for index in np.argsort(-reference, kind="stable") if NAMES[index] != "x"]
        assert [item.name for item in found] == [NAMES[index] for index in order]
        np.testing.assert_allclose([item.score for item in found], reference[order], atol=1e-5)


def test_classifying_needs_no_tokenizer_and_embedding_texts_names_the_extra(
    bundle: Path, images: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    engine = nd.load(bundle)
    assert len(engine.classify(images)) == len(images)
    with pytest.raises(MissingExtraError, match="tokenizers") as caught:
        _ = engine.text
    assert caught.value.hint == "pip install 'naflex-deploy[text]'"


def test_the_bundle_holds_what_it_says(bundle: Path, directory: Path) -> None:
    manifest = Manifest.read(bundle)
    assert manifest.head is not None
    assert (manifest.head.labels, manifest.head.scores) == (NAMES, "sigmoid")
    assert manifest.text is not None
    assert set(manifest.text.files) == {name for name in manifest.files if name.startswith("text/")}
    assert manifest.files["text/tokenizer.json"].sha256 == sha256(directory / "tokenizer.json")
    assert abs(manifest.text.scale - 110) < 1e-3
    assert manifest.text.bias == -15


def test_a_changed_tokenizer_is_seen(bundle: Path, tmp_path: Path) -> None:
    own = shutil.copytree(bundle, tmp_path / "own")
    (own / "text" / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        TextEncoder(Bundle.open(own))


def test_an_exported_tower_that_differs_is_refused(
    directory: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = read_text(directory)
    other = replace(text, weights=text.weights | {"head.bias": text.weights["head.bias"] + 0.01})
    monkeypatch.setattr(
        building,
        "export_text",
        lambda tower, path, masked: shutil.copytree(bundle / "text", path.parent, dirs_exist_ok=True),
    )
    with pytest.raises(GateError, match="text tower is off by"):
        building.add_text(other, tmp_path)


def test_a_module_in_memory_reads_texts_where_there_is_a_tokenizer(original: Siglip2Model) -> None:
    text = read_text(original)
    assert (text.scale, text.bias) == (pytest.approx(110), -15)
    with pytest.raises(CheckpointError, match=r"Siglip2Model: no tokenizer\.json there"):
        text.tokenize(["a"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected one label per line, found none"),
        (b"\n  \n\t\n", "expected one label per line, found none"),
        (b"cat\ndog\n cat \n", "line 3: 'cat' is already in line 1"),
        (b"cat\tx\ndog\ncat\ty\ncat\tx\n", "line 4: 'cat' is already in line 1, with the same text"),
        (b"\ta text without a name\n", "line 1: a text has no name"),
        (b"caf\xe9\n", "is not UTF-8 text"),
        (None, "cannot read"),
    ],
)
def test_label_files_that_name_no_classes(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        read_labels(path)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)


def test_label_files(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(
        "\ufeffcat\r\nred car\ta photo of a red car\r\n\r\n東京\nred car\ta drawing\n".encode()
    )
    assert read_labels(tmp_path / "labels.txt") == [
        Label("cat", ("cat",)),
        Label("red car", ("a photo of a red car", "a drawing")),
        Label("東京", ("東京",)),
    ]


def test_several_texts_of_a_label_are_averaged_as_siglip_does(directory: Path, original: Siglip2Model) -> None:
    labels = [Label("cat", ("a cat", "a photo of a cat", "cat")), Label("x", ("x",))]
    checkpoint = with_labels(read(directory), read_text(directory), labels)
    with torch.inference_mode():
        every = original.get_text_features(**rows([text for label in labels for text in label.texts])).pooler_output
    unit = torch.nn.functional.normalize(every, dim=-1)
    mean = torch.nn.functional.normalize(unit[:3].mean(0), dim=-1)
    expected_rows = original.logit_scale.detach().exp() * torch.stack([mean, unit[3]])
    torch.testing.assert_close(checkpoint.weights["classifier.weight"], expected_rows, rtol=1e-5, atol=1e-3)
    assert checkpoint.labels == ("cat", "x")


def test_texts_that_are_cut_are_named(directory: Path) -> None:
    labels = [Label("long", (TEXTS[4], "a cat")), Label("x", ("x",))]
    assert cut_texts(read_text(directory), labels) == [TEXTS[4]]


def test_what_cannot_have_labels_says_why(directory: Path, tmp_path: Path) -> None:
    labels = [Label("cat", ("cat",))]
    text = read_text(directory)
    bare = small(Siglip2VisionModel, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="Siglip2VisionModel has no text tower"):
        read_text(bare)
    with pytest.raises(CheckpointError, match="random:siglip2-base has no text tower"):
        read_text("random:siglip2-base")
    with pytest.raises(CheckpointError, match="found 192 from pooling 'mean' and 10 classes"):
        with_labels(read("demo"), text, labels)
    alone = shutil.copytree(directory, tmp_path / "alone")
    (alone / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json there"):
        with_labels(read(alone), read_text(alone), labels)
    other = shutil.copytree(directory, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["vocab"]["cat"] = 4000
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json gives token 4000, expected below"):
        with_labels(read(other), read_text(other), labels)
    (other / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="is not a tokenizer"):
        with_labels(read(other), read_text(other), labels)


def test_thresholds_of_unknown_classes_are_refused_before_anything_is_built(directory: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match=r"head\.thresholds: .* has no class 'cta'") as caught:
        nd.build(
            "photo",
            directory,
            tmp_path / "b",
            settings=[*SETTINGS[:-1], "head.thresholds={cta = 0.5}"],
            labels=directory / "labels.txt",
            report=steps.append,
        )
    assert caught.value.hint == "did you mean 'cat'?"
    assert not any(step.startswith("exporting") for step in steps)
    assert list(tmp_path.iterdir()) == []
