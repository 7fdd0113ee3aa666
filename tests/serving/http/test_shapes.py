"""What clients of other embedding servers send to /v1/embeddings."""

from __future__ import annotations

import base64
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from naflex_deploy.serving.http.v1.shapes import decode, looks_like_image
from tests.serving.support import pixels, png, running, vector
from tests.support.bundles import WIDTH

IMAGES = [pixels(0), pixels(1, 16, 4)]
PLAIN, OTHER = (base64.b64encode(png(image)).decode() for image in IMAGES)
URL = "data:image/png;base64," + PLAIN


@pytest.fixture(scope="module")
def http():
    with running() as server, httpx.Client(base_url=server.url) as client:
        yield client


def part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


ONE = {
    "a list": {"input": [PLAIN]},
    "user": {"input": PLAIN, "user": "u1"},
    "dimensions null": {"input": PLAIN, "dimensions": None},
    "dimensions of the model": {"input": PLAIN, "dimensions": WIDTH},
    "infinity": {"input": [URL], "modality": "image", "encoding_format": "float", "dimensions": 0},
    "vLLM": {"messages": [{"role": "user", "content": [part(URL)]}], "encoding_format": "float"},
    "vLLM, more": {"input": [PLAIN], "truncate_prompt_tokens": 64, "add_special_tokens": True},
    "OpenAI's parts": {"input": [part(URL)]},
    "OpenAI's part alone": {"input": {"type": "image_url", "image_url": URL}},
    "Jina": {"input": [{"image": URL}], "embedding_type": "float", "normalized": False},
    "Jina, base64": {"input": [{"image": PLAIN}]},
    "Cohere": {"input_type": "image", "embedding_types": ["float"], "images": [URL], "truncate": "NONE"},
    "line breaks": {"input": "\n".join(PLAIN[at : at + 76] for at in range(0, len(PLAIN), 76))},
    "line breaks of MIME": {"input": "\r\n".join(PLAIN[at : at + 76] for at in range(0, len(PLAIN), 76)) + "\r\n"},
    "URL-safe": {"input": PLAIN.replace("+", "-").replace("/", "_")},
    "not padded": {"input": PLAIN.rstrip("=")},
    "a URL with a character set": {"input": "data:image/png;charset=utf-8;base64," + PLAIN},
}


@pytest.mark.parametrize("sent", ONE.values(), ids=ONE)
def test_one_image_in_every_shape(http, sent):
    answer = http.post("/v1/embeddings", json={"model": "sums", **sent})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["data"]
    np.testing.assert_allclose(found["embedding"], vector(IMAGES[0]), rtol=1e-5, atol=1e-6)


def test_base64_needs_no_padding_whatever_its_length():
    for length in range(3, 15):
        content = (bytes([251, 255, 191, 62]) * 4)[:length]
        text = base64.urlsafe_b64encode(content).decode()
        assert {"-", "_"} & set(text)
        for form in (text, text.rstrip("="), text[:4] + "\n" + text[4:]):
            assert decode(form, "input[0]") == content


def test_images_of_several_shapes_keep_their_order(http):
    answer = http.post("/v1/embeddings", json={"input": [PLAIN, {"image": OTHER}, part(URL), OTHER]})
    assert answer.status_code == 200, answer.text
    for item, image in zip(answer.json()["data"], [IMAGES[0], IMAGES[1], IMAGES[0], IMAGES[1]], strict=True):
        np.testing.assert_allclose(item["embedding"], vector(image), rtol=1e-5, atol=1e-6)
    classes = http.post("/v1/classify", json={"images": [PLAIN, OTHER]})
    assert [len(item["classes"]) for item in classes.json()["data"]] == [3, 3]


@pytest.mark.parametrize(
    ("default", "asked", "divided"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
def test_vectors_are_normalised_where_the_server_or_the_request_says_so(default, asked, divided):
    with running(normalize=default) as server:
        sent = {"input": PLAIN, "encoding_format": "base64"} | ({} if asked is None else {"normalize": asked})
        (item,) = httpx.post(f"{server.url}/v1/embeddings", json=sent).json()["data"]
    plain = vector(IMAGES[0]).astype(np.float64)
    expected = plain / np.sqrt((plain**2).sum()) if divided else plain
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(item["embedding"]), "<f4"), expected, 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("sent", "said", "param"),
    [
        ({"input": "a photo of a cat"}, "expected an image in base64", "input[0]"),
        ({"input": [PLAIN, {"text": "a cat"}]}, "its bundle has no text tower", "input[1]"),
        ({"input": [{"type": "text", "text": "a cat"}]}, "its bundle has no text tower", "input[0]"),
        ({"texts": ["a cat"]}, "its bundle has no text tower", "texts[0]"),
        ({"messages": [{"content": "a cat"}]}, "its bundle has no text tower", "messages[0].content"),
        (
            {"messages": [{"content": [part(URL), {"type": "text", "text": "Embed."}]}]},
            "expected one image or one text in `messages`, found 2",
            "messages",
        ),
        ({"messages": []}, "expected one image or one text in `messages`, found 0", "messages"),
        ({"input": PLAIN, "images": [PLAIN]}, "found `input` and `images`", "images"),
        ({"model": "sums"}, "found none of them", "input"),
        ({"images": ["https://example.org/a.png"]}, "URLs are not fetched", "images[0]"),
        ({"input": [part("HTTPS://example.org/a.png")]}, "URLs are not fetched", "input[0]"),
        ({"input": PLAIN, "dimensions": 4}, f"expected null or {WIDTH}, found 4: the model was not", "dimensions"),
        ({"input": PLAIN, "dimensions": -1}, f"expected null or {WIDTH}, found -1", "dimensions"),
        ({"input": PLAIN, "modality": "audio"}, "Input should be 'image' or 'text'", "modality"),
        ({"input": PLAIN, "embedding_types": ["int8"]}, "Input should be 'float' or 'base64'", "embedding_types.0"),
        ({"input": "A" * 5}, "expected an image in base64", "input[0]"),
        ({"input": "A" * 5, "modality": "image"}, "expected an image in base64", "input[0]"),
        ({"input": "é" * 99, "input_type": "image"}, "expected an image in base64", "input[0]"),
        ({"input": PLAIN, "truncate": "START"}, "texts are cut at their end", "truncate"),
        ({"input": [{"image": PLAIN, "page": 2}]}, "expected a PDF document or a TIFF file", "input[0]"),
        ({"input": [{"image": PLAIN, "page": 0}]}, "expected a page from 1 on, found 0", "input[0]"),
        ({"input": PLAIN[:60] + "=" + PLAIN[60:]}, "expected an image in base64", "input[0]"),
    ],
)
def test_what_is_refused_says_why(http, sent, said, param):
    answer = http.post("/v1/embeddings", json=sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param), error
    assert said in error["message"]


def test_a_text_is_told_from_bad_base64(http):
    text, bad = (http.post("/v1/embeddings", json={"input": sent}).json()["error"] for sent in ("a cat", "%%%"))
    assert "no text tower" in text["hint"]
    assert "text" not in (bad.get("hint") or "")


def test_texts_are_told_from_images():
    for image in (PLAIN, "\n" + PLAIN, URL, PLAIN[:60] + "\n" + PLAIN[60:], PLAIN.replace("+", "-"), "https://a/b.png"):
        assert looks_like_image(image)
    assert all(looks_like_image(base64.b64encode(content).decode()) for content in smallest())
    for text in (
        "a cat",
        "%%%",
        "",
        "cat=",
        "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
        "東京" * 40,
    ):
        assert not looks_like_image(text)


def smallest() -> list[bytes]:
    """The smallest file of each common format."""
    found = []
    for form in ("PNG", "GIF", "WEBP", "BMP", "JPEG", "TIFF"):
        stream = BytesIO()
        Image.new("1" if form != "WEBP" else "RGB", (1, 1)).save(stream, form)
        found.append(stream.getvalue())
    return found


def test_health_and_info(http):
    assert http.get("/health").status_code == 200
    info = http.get("/info").json()
    assert (info["name"], [model["id"] for model in info["models"]]) == ("naflex-deploy", ["sums"])
    with running(keys=["secret"]) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/info").status_code == 401
        server.service.draining = True
        assert httpx.get(f"{server.url}/health").status_code == 503
