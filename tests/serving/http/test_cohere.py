"""/v1/embed and /v2/embed, as clients of Cohere ask and read them."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest

from tests.serving.support import pixels, png, running, vector
from tests.support.bundles import WIDTH

IMAGES = [pixels(0), pixels(1, 16, 4)]
URLS = ["data:image/png;base64," + base64.b64encode(png(image)).decode() for image in IMAGES]
PARTS = [{"content": [{"type": "image_url", "image_url": {"url": url}}]} for url in URLS]
VECTORS = [vector(image) for image in IMAGES]


@pytest.fixture(scope="module")
def http():
    with running() as server, httpx.Client(base_url=server.url) as client:
        yield client


@pytest.mark.parametrize("sent", [{"images": URLS}, {"inputs": PARTS}, {"inputs": PARTS, "output_dimension": WIDTH}])
def test_vectors_stand_by_type_and_in_order(http, sent):
    answer = http.post("/v2/embed", json={"model": "sums", "input_type": "image", "embedding_types": ["float"], **sent})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    np.testing.assert_allclose(found["embeddings"]["float"], VECTORS, rtol=1e-5, atol=1e-6)
    assert found["id"] == answer.headers["x-request-id"]
    units = {"input_tokens": 0, "image_tokens": 6 + 4, "images": 2}
    assert found["meta"] == {"api_version": {"version": "2"}, "billed_units": units}


def test_base64_is_little_endian(http):
    found = http.post("/v2/embed", json={"images": URLS, "embedding_types": ["base64"]}).json()["embeddings"]
    decoded = [np.frombuffer(base64.b64decode(text), "<f4") for text in found["base64"]]
    np.testing.assert_allclose(decoded, VECTORS, rtol=1e-5, atol=1e-6)


def test_version_1_has_plain_vectors_unless_types_are_asked_for(http):
    plain, typed = (
        http.post("/v1/embed", json={"images": URLS, **more}).json() for more in ({}, {"embedding_types": ["float"]})
    )
    assert (plain["response_type"], typed["response_type"]) == ("embeddings_floats", "embeddings_by_type")
    assert plain["embeddings"] == typed["embeddings"]["float"]
    np.testing.assert_allclose(plain["embeddings"], VECTORS, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sent", "said", "param"),
    [
        ({"texts": ["a cat"]}, "its bundle has no text tower", "texts[0]"),
        (
            {"inputs": [PARTS[0], {"content": [{"type": "text", "text": "a cat"}]}]},
            "no text tower",
            "inputs[1].content[0]",
        ),
        ({"inputs": [{"content": PARTS[0]["content"] * 2}]}, "at most 1 item", "inputs.0.content"),
        ({"inputs": [{"content": [{"type": "image_url", "image_url": "data:"}]}] * 65}, "1 to 64 images", "input"),
        ({"images": URLS, "output_dimension": 4}, f"expected null or {WIDTH}, found 4", "output_dimension"),
        ({"images": URLS, "priority": 3}, "Input should be 0", "priority"),
        ({"images": URLS, "max_tokens": 3}, "Extra inputs", "max_tokens"),
        ({"images": ["https://example.org/a.png"]}, "URLs are not fetched", "images[0]"),
    ],
)
def test_what_is_refused_says_why(http, sent, said, param):
    answer = http.post("/v2/embed", json=sent)
    error = answer.json()
    assert (answer.status_code, error["param"]) == (422, param), error
    assert said in error["message"]
