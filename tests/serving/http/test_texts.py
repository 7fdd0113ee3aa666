"""Texts, documents and mixed inputs in /v1/embeddings, of a real bundle with a text tower."""

from __future__ import annotations

import base64
import json
import math
import threading
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import naflex_deploy as nd
from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.runtime.embedding.run import embed_files
from naflex_deploy.runtime.embedding.summary import Places
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.results.columns import COLUMNS
from naflex_deploy.serving.client import Client
from naflex_deploy.serving.http import models as models_module
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.models import open_model
from naflex_deploy.serving.http.v1.documents import read_pages
from naflex_deploy.serving.http.v1.items import Item
from tests.serving.support import pixels, png, running
from tests.support.pdfs import pdf, rectangle
from tests.support.two_towers import LENGTH, bundle, tokenizer

__all__ = ["bundle"]

PICTURE = pixels(0, 40, 24)
IMAGE = base64.b64encode(png(PICTURE)).decode()
TEXTS = ["a cat", "A photo of a DOG", "東京"]


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return nd.load(bundle)


@pytest.fixture(scope="module")
def http(bundle: Path):
    limits = Limits(items=8)
    with (
        running(names=("towers",), load=lambda name, path: open_model(name, bundle), limits=limits) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def tiff(count: int) -> bytes:
    stream = BytesIO()
    first, *others = (Image.fromarray(pixels(number, 24 + 8 * number, 40)) for number in range(count))
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return stream.getvalue()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]])


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "sent",
    [
        {"input": TEXTS},
        {"input": [{"text": text} for text in TEXTS]},
        {"input": [{"type": "text", "text": text} for text in TEXTS]},
        {"texts": TEXTS, "input_type": "search_query", "embedding_types": ["float"], "truncate": "END"},
        {"input": TEXTS, "modality": "text"},
    ],
    ids=["OpenAI", "Jina", "parts", "Cohere", "infinity"],
)
def test_texts_in_every_shape(http, engine, sent):
    close(vectors(http.post("/v1/embeddings", json=sent)), engine.text.embed(TEXTS))


def test_one_text_and_what_it_uses(http, engine):
    answer = http.post("/v1/embeddings", json={"input": "a cat", "normalize": True})
    close(vectors(answer), engine.text.embed(["a cat"], normalize=True))
    assert answer.json()["usage"]["prompt_tokens"] == len(tokenizer()("a cat")["input_ids"])
    chat = http.post("/v1/embeddings", json={"messages": [{"role": "user", "content": "a cat"}]})
    close(vectors(chat), engine.text.embed(["a cat"]))


def test_mixed_inputs_keep_their_order(http, engine):
    sent = ["a cat", IMAGE, {"text": IMAGE}, {"image": IMAGE}, {"type": "text", "text": "東京"}]
    found = vectors(http.post("/v1/embeddings", json={"input": sent}))
    image, texts = engine.embed([PICTURE]), engine.text.embed(["a cat", IMAGE, "東京"])
    close(found, np.stack([texts[0], image[0], texts[1], image[0], texts[2]]))


def test_a_document_has_an_entry_a_page(http, engine, tmp_path):
    document = tmp_path / "two.pdf"
    document.write_bytes(pdf([rectangle(9, 9, 30, 50), rectangle(40, 20, 9, 9)], (60, 90)))
    scan = tmp_path / "scan.tiff"
    scan.write_bytes(tiff(3))
    sent = [encoded(document.read_bytes()), "a cat", encoded(scan.read_bytes()), IMAGE]
    answer = http.post("/v1/embeddings", json={"input": sent})
    found = vectors(answer)
    places = [(item["index"], item.get("page")) for item in answer.json()["data"]]
    assert places == [(0, 1), (0, 2), (1, None), (2, 1), (2, 2), (2, 3), (3, None)]
    rows = engine.embed([document, scan, PICTURE])
    close(found, np.concatenate([rows[:2], engine.text.embed(["a cat"]), rows[2:]]))
    only = http.post("/v1/embeddings", json={"input": [{"image": encoded(scan.read_bytes()), "page": 2}]})
    close(vectors(only), rows[3:4])
    assert only.json()["data"][0]["page"] == 2
    files = [("image", ("scan.tiff", scan.read_bytes()))]
    classes = http.post("/v1/classify", files=files).json()["data"]
    assert [item["page"] for item in classes] == [1, 2, 3]


def test_columns_are_those_of_embed(http, bundle, tmp_path):
    (tmp_path / "scan.tiff").write_bytes(tiff(2))
    (tmp_path / "page.png").write_bytes(png(PICTURE))
    engine = nd.load(bundle)
    embed_files(engine, [tmp_path / "scan.tiff", tmp_path / "page.png"], Places(tmp_path / "out.jsonl"))
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    sent = {"input": [encoded(tiff(2)), IMAGE, "a cat"], "columns": True}
    *found, text = [item["columns"] for item in http.post("/v1/embeddings", json=sent).json()["data"]]
    assert len(found) == len(written) == 3
    for columns, row in zip(found, written, strict=True):
        assert {"sha256", "frame", "grid_rows", "grid_columns", "schema", "model", "variant", "tool"} <= set(columns)
        assert columns == {name: row[name] for name in columns}
    assert text["text"] == "a cat"
    assert set(text) <= {column.name for column in COLUMNS}


@pytest.mark.parametrize(
    ("sent", "param", "said"),
    [
        ({"input": ["a cat", {"image": encoded(b"no image at all, only bytes that say so")}]}, "input[1]", "image"),
        ({"input": [{"image": encoded(tiff(2)), "page": 3}, "a cat"]}, "input[0]", "the document has no page 3"),
        ({"input": [{"image": encoded(tiff(2)), "page": 99_999}]}, "input[0]", "the document has no page 99999"),
        ({"input": ["a cat", encoded(tiff(9))]}, "input[1]", "expected a document of at most 8 pages"),
        ({"input": [encoded(tiff(5)), encoded(tiff(4))]}, "input[1]", "expected 1 to 8 images, found 9"),
        ({"input": [encoded(b"%PDF-1.7 cut off" * 9)]}, "input[0]", "PDF"),
        ({"input": ["x", "y " * 35_000]}, "input[1]", "at most 65536 characters"),
        ({"input": ["x", "cat " * LENGTH], "truncate": False}, "input[1]", "longer than the model reads"),
        ({"input": ["x"], "dimensions": 7}, "dimensions", "expected null or"),
    ],
)
def test_one_bad_item_is_named(http, sent, param, said):
    answer = http.post("/v1/embeddings", json=sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param), error
    assert said in error["message"]


def test_a_page_with_too_many_pixels_is_refused_before_it_is_decoded(bundle):
    model = open_model("towers", bundle)
    limits = Limits(pixels=1000)
    try:
        found = read_pages(model, Item(0, "input[0]", tiff(1)), Limits(), math.inf)
        assert [(page.number, page.preview) for page in found] == [(1, None)]
        with pytest.raises(ImageError, match="expected at most 1000 pixels"):
            read_pages(model, Item(0, "input[0]", tiff(2)), limits, math.inf)
    finally:
        model.close(20)


@pytest.mark.parametrize("lines", [False, True])
def test_pages_come_with_what_the_model_sees_of_them(http, lines):
    left, right = rectangle(0, 0, 300, 842), rectangle(300, 0, 300, 842)
    sent = {"input": [encoded(pdf([left, right])), IMAGE], "preview": True}
    answer = http.post("/v1/embeddings", json=sent, headers={"accept": "application/x-ndjson"} if lines else {})
    found = [json.loads(line) for line in answer.text.splitlines()] if lines else answer.json()["data"]
    entries = sorted((item for item in found if "index" in item), key=lambda item: (item["index"], item.get("page", 0)))
    assert [(item["index"], item.get("page"), "preview" in item) for item in entries] == [
        (0, 1, True),
        (0, 2, True),
        (1, None, False),
    ]
    for item, black in zip(entries, ("left", "right"), strict=False):
        assert item["preview"].startswith("data:image/jpeg;base64,")
        seen = np.asarray(Image.open(BytesIO(base64.b64decode(item["preview"].partition(",")[2]))), float)
        assert seen.shape[0] > seen.shape[1]
        quarter = seen.shape[1] // 4
        ends = {"left": seen[:, :quarter].mean(), "right": seen[:, -quarter:].mean()}
        assert ends.pop(black) < 20
        assert min(ends.values()) > 235


def test_cohere_has_one_vector_for_each_input(http, engine):
    found = http.post("/v2/embed", json={"texts": TEXTS, "input_type": "search_query"}).json()
    close(np.array(found["embeddings"]["float"]), engine.text.embed(TEXTS))
    assert found["texts"] == TEXTS
    assert found["meta"]["billed_units"]["input_tokens"] > 0
    error = http.post("/v2/embed", json={"images": [IMAGE, encoded(tiff(2))]}).json()
    assert (error["param"], "a document of several pages" in error["message"]) == ("images[1]", True)


def test_the_client_embeds_texts(http, engine):
    with Client(str(http.base_url), batch=2) as client:
        close(client.embed_texts(TEXTS), engine.text.embed(TEXTS))
        assert client.embed_texts([]).shape == (0, 0)


def test_texts_have_no_classes(http):
    error = http.post("/v1/classify", json={"input": [IMAGE, {"text": "a cat"}]}).json()["error"]
    assert (error["param"], "has no classes" in error["message"]) == ("input[1]", True)


def test_texts_of_many_requests_run_together(http, engine):
    texts = [f"a cat {number}" for number in range(24)]
    found: dict[str, np.ndarray] = {}

    def ask(text: str) -> None:
        found[text] = vectors(http.post("/v1/embeddings", json={"input": text}))[0]

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close(np.stack([found[text] for text in texts]), engine.text.embed(texts))
    ran = http.get("/metrics").text
    assert 'naflex_texts_total{model="towers"}' not in ran  # the model of this test reports to nobody
    assert http.get("/info").json()["models"][0]["texts"] is True


def test_without_a_tokenizer_images_are_served_and_texts_say_why(bundle, monkeypatch):
    def missing(bundle):
        raise MissingExtraError("tokenizers", "text")

    monkeypatch.setattr(models_module, "TextEncoder", missing)
    with running(names=("towers",), load=lambda name, path: open_model(name, bundle)) as server:
        assert httpx.post(f"{server.url}/v1/embeddings", json={"input": IMAGE}).status_code == 200
        error = httpx.post(f"{server.url}/v1/embeddings", json={"input": "a cat"}).json()["error"]
    assert "pip install 'naflex-deploy[text]'" in error["hint"]
