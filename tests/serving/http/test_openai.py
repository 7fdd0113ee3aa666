from __future__ import annotations

import base64
import itertools
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from naflex_deploy.core.manifest import Head
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.serving.http.v1.answers import classes
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.openai import ClassifyRequest
from naflex_deploy.serving.http.v1.run import Row
from tests.serving.support import pixels, png, running, vector

IMAGES = [pixels(0), pixels(1, 16, 4), pixels(2, 4, 4)]


@pytest.fixture(scope="module")
def http():
    with running() as server, httpx.Client(base_url=server.url) as client:
        yield client


def encoded(image: np.ndarray) -> str:
    return base64.b64encode(png(image)).decode()


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_have_openais_shape(http, encoding):
    sent = [encoded(IMAGES[0]), "data:image/png;base64," + encoded(IMAGES[1]), encoded(IMAGES[2])]
    answer = http.post("/v1/embeddings", json={"input": sent, "model": "sums", "encoding_format": encoding})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["object"] == "list"
    assert content["model"] == "sums"
    assert content["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    for index, (item, image) in enumerate(zip(content["data"], IMAGES, strict=True)):
        assert (item["index"], item["object"]) == (index, "embedding")
        assert "packing" not in item
        values = item["embedding"]
        if encoding == "base64":
            values = np.frombuffer(base64.b64decode(values), "<f4")
        np.testing.assert_allclose(values, vector(image), rtol=1e-5, atol=1e-6)


def test_one_image_and_the_default_model(http):
    content = http.post("/v1/embeddings", json={"input": encoded(IMAGES[0])}).json()
    np.testing.assert_allclose(content["data"][0]["embedding"], vector(IMAGES[0]), rtol=1e-5, atol=1e-6)


def test_multipart_files(http):
    files = [("image", (f"{i}.png", png(image), "image/png")) for i, image in enumerate(IMAGES)]
    content = http.post("/v1/embeddings", files=files, data={"explain": "true"}).json()
    for item, image in zip(content["data"], IMAGES, strict=True):
        np.testing.assert_allclose(item["embedding"], vector(image), rtol=1e-5, atol=1e-6)
    packs = [item["packing"] for item in content["data"]]
    assert [p["tokens"] for p in packs] == [6, 4, 1]
    assert [tuple(p["grid_hw"]) for p in packs] == [(2, 3), (4, 1), (1, 1)]
    taken = sorted((p["pack"], p["start"], p["start"] + p["tokens"]) for p in packs)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(taken)), "images overlap"


def test_classes_are_a_softmax_best_first(http):
    content = http.post("/v1/classify", json={"input": [encoded(image) for image in IMAGES], "top": 2}).json()
    from tests.support.bundles import LABELS, projection

    for item, image in zip(content["data"], IMAGES, strict=True):
        logits = vector(image).astype(np.float64) @ projection()[1].astype(np.float64)
        scores = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-scores)[:2]
        assert [c["label"] for c in item["classes"]] == [LABELS[i] for i in order]
        np.testing.assert_allclose([c["score"] for c in item["classes"]], scores[order], rtol=1e-5)


@pytest.mark.parametrize(
    ("sent", "status", "reason", "param"),
    [
        ({"input": ["https://example.org/x.png"]}, 422, "bad_request", "input[0]"),
        ({"input": [encoded(IMAGES[0]), "%"]}, 422, "bad_request", "input[1]"),
        ({"input": ["data:image/png,abc"]}, 422, "bad_request", "input[0]"),
        ({"input": []}, 422, "too_many_items", "input"),
        ({"input": ["data:"] * 65}, 422, "too_many_items", "input"),  # before the first of them is decoded
        ({"images": ["data:"] * 65}, 422, "too_many_items", "input"),
        ({"texts": ["a" * 65_537] * 65}, 422, "too_many_items", "input"),
        ({"input": [encoded(IMAGES[0]), base64.b64encode(b"no image").decode()]}, 422, "bad_image", "input[1]"),
        ({"input": 3}, 422, "bad_request", "input.str"),
        ({"input": encoded(IMAGES[0]), "model": "nope"}, 404, "no_such_model", None),
        ({"input": encoded(IMAGES[0]), "dimension": 3}, 422, "bad_request", "dimension"),
        ({"input": encoded(IMAGES[0]), "timeout": -1}, 422, "bad_request", "timeout"),
    ],
)
def test_wrong_requests(http, sent, status, reason, param):
    answer = http.post("/v1/embeddings", json=sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, reason, param)
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["message"]


def test_files_in_another_field_are_answered_with_the_right_one(http):
    error = http.post("/v1/embeddings", files={"file": png(IMAGES[0])}).json()["error"]
    assert error["message"] == "expected 1 to 64 images, found 0"
    assert "the field `image`" in error["hint"]


def test_other_media_types_are_415(http):
    answer = http.post("/v1/embeddings", content=png(IMAGES[0]), headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (415, "unsupported_media_type")
    answer = http.post(
        "/v1/embeddings", content=b"x", headers={"content-encoding": "br", "content-type": "application/json"}
    )
    assert answer.status_code == 415


def test_broken_multipart_is_422(http):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for content in (b"", b"--x\r\n", b"--x\r\nfoo", b"nonsense", b"--x\r\n\r\nabc\r\n--x--"):
        assert http.post("/v1/embeddings", content=content, headers=headers).status_code == 422
    assert http.post("/v1/embeddings", content=b"", headers={"content-type": "multipart/form-data"}).status_code == 422


def test_the_openapi_document_describes_every_body(http):
    document = http.get("/openapi.json").json()
    for path in ("/v1/embeddings", "/v1/classify", "/v2/models/{name}/infer"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert {"input", "inputs"} & schema["properties"].keys()
        assert "$ref" not in str(schema)
    assert "multipart/form-data" in document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]


def test_the_openapi_document_names_every_status(http):
    """A program that checks answers against the document is run by make integrations."""
    paths = http.get("/openapi.json").json()["paths"]
    everywhere = {"200", "400", "408", "431", "500", "503"}
    assert all(everywhere <= set(operation["responses"]) for item in paths.values() for operation in item.values())
    body = {"401", "404", "413", "415", "422", "429", "504"}
    for path in ("/v1/embeddings", "/v1/classify", "/v2/models/{name}/infer", "/v2/models/{name}/versions/1/infer"):
        assert set(paths[path]["post"]["responses"]) == everywhere | body
    assert set(paths["/v2/repository/models/{name}/load"]["post"]["responses"]) == everywhere | {"401", "403", "404"}
    assert set(paths["/v2/health/ready"]["get"]["responses"]) == everywhere


@pytest.mark.parametrize(("scores", "expected"), [("raw", -7.5), ("sigmoid", 1 / (1 + np.exp(7.5)))])
def test_one_output_is_a_value_or_a_probability(scores, expected):
    head = Head(labels=["quality"], scores=scores)
    model = SimpleNamespace(name="scores", manifest=SimpleNamespace(head=head))
    outcome = ImageOutcome({"logits": np.array([-7.5], np.float32)}, (2, 2), 0, 0, 0, 0, 0)
    served = [Row(Item(0, "input[0]", b""), None, outcome)]
    answer = classes(ClassifyRequest(input=["x"], model="scores"), model, served)
    (found,) = answer.data[0].classes
    assert found.label == "quality"
    assert found.score == pytest.approx(expected, rel=1e-5)
