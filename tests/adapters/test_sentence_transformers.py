"""The shape of SentenceTransformer's ``encode``, with an engine that has a stand-in for its text tower."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import naflex_deploy as nd
from naflex_deploy.adapters.engine import one_each
from naflex_deploy.adapters.sentence_transformers import SentenceEncoder
from naflex_deploy.core.errors import ImageError, MissingExtraError, UsageError
from tests.support.tiny import WIDTH, bundle

__all__ = ["bundle"]

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


class Texts:
    """A text tower that counts letters."""

    def embed(self, texts: list[str], *, normalize: bool = False) -> np.ndarray:
        return np.stack([np.full(WIDTH, len(text), np.float32) for text in texts])


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> SentenceEncoder:
    engine = nd.load(bundle)
    engine._open_text = Texts
    return SentenceEncoder(engine)


def test_texts_and_images_keep_their_places(encoder: SentenceEncoder, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    picture = encoder.engine.embed(PIXELS)
    inputs = ["four", PIXELS, str(path), "a.png", {"image": path}, {"text": str(path)}, Image.fromarray(PIXELS)]
    found = encoder.encode(inputs)
    for number in (1, 2, 4, 6):
        np.testing.assert_allclose(found[number], picture, rtol=1e-5, atol=1e-5)
    for number, length in ((0, 4), (3, 5), (5, len(str(path)))):
        np.testing.assert_array_equal(found[number], np.full(WIDTH, length))


def test_forms_of_results(encoder: SentenceEncoder) -> None:
    assert encoder.encode("one").shape == (WIDTH,)
    assert encoder.encode(PIXELS).shape == (WIDTH,)
    assert encoder.encode({"text": "one"}).shape == (WIDTH,)
    assert encoder.encode([]).shape == (0, WIDTH)
    assert isinstance(encoder.encode(["a"], convert_to_tensor=True), torch.Tensor)
    (tensor,) = encoder.encode(["a"], convert_to_numpy=False)
    assert tensor.shape == (WIDTH,)
    np.testing.assert_allclose(
        np.linalg.norm(encoder.encode(["a", PIXELS], normalize_embeddings=True), axis=1), 1, 1e-6
    )
    assert encoder.encode(["a"], batch_size=1, device="cpu", truncate_dim=WIDTH).shape == (1, WIDTH)


def test_similarity_is_the_cosine(encoder: SentenceEncoder) -> None:
    first, second = np.eye(3)[:2] * 7, np.array([[1, 1, 0], [0, 0, 2], [0, -3, 0]], float)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(encoder.similarity(first, second), [[half, 0, 0], [half, 0, -1]], atol=1e-6)
    np.testing.assert_allclose(encoder.similarity(list(first), second[0]), [[half], [half]], atol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(first, second[:2]), [half, 0], atol=1e-6)
    assert isinstance(encoder.similarity(torch.from_numpy(first), second), torch.Tensor)


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        (["a"], {"precision": "int8"}, "precision: expected 'float32', found 'int8'"),
        (["a"], {"output_value": "token_embeddings"}, "output_value"),
        (["a"], {"prompt": "query: "}, "prompt"),
        (["a"], {"truncate_dim": 4}, f"truncate_dim: expected None or {WIDTH}, found 4"),
        ([{"text": "a", "image": PIXELS}], {}, "either 'text' or 'image', found text, image"),
        ([{}], {}, "found nothing"),
    ],
)
def test_what_the_engine_cannot_do_is_refused(encoder: SentenceEncoder, inputs: list, options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        encoder.encode(inputs, **options)


def test_urls_are_images_that_are_never_fetched(encoder: SentenceEncoder) -> None:
    for url in ("https://example.org/a.png", "https://example.org/A.JPG?size=3", "data:image/png;base64,AAAA"):
        with pytest.raises(ImageError, match="never fetched"):
            encoder.encode([url])
    assert encoder.encode(["https://example.org/ is a page"]).shape == (1, WIDTH)


def test_texts_need_a_text_tower(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no text tower"):
        SentenceEncoder(bundle).encode(["a"])


def test_a_document_of_several_pages_is_no_single_vector(encoder: SentenceEncoder, tmp_path: Path) -> None:
    path = tmp_path / "pages.tiff"
    Image.fromarray(PIXELS).save(path, save_all=True, append_images=[Image.fromarray(PIXELS)] * 2)
    with pytest.raises(UsageError, match=r"pages\.tiff: expected one image, found 3 frames"):
        one_each(encoder.engine, [PIXELS, path])


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
    ],
)
def test_a_missing_library_is_named(module: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError) as caught:
        importlib.import_module(f"naflex_deploy.adapters.{module}")
    assert caught.value.hint == f"pip install 'naflex-deploy[{extra}]'"
