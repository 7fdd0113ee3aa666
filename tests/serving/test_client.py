from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.serving.client import Client, ServerError
from tests.serving.support import pixels, png, running, vector
from tests.support.bundles import LABELS

IMAGES = [pixels(seed, 4 * (1 + seed % 3), 4 * (1 + seed % 4)) for seed in range(10)]


@pytest.fixture(scope="module")
def url():
    with running(names=("sums", "other")) as server:
        yield server.url


def test_every_kind_of_source_in_order_over_several_requests(url, tmp_path):
    from PIL import Image

    (tmp_path / "x.png").write_bytes(png(IMAGES[0]))
    sources = [tmp_path / "x.png", str(tmp_path / "x.png"), png(IMAGES[1]), Image.fromarray(IMAGES[2]), *IMAGES[3:]]
    with Client(url, batch=3) as client:
        assert client.ready()
        assert [model["id"] for model in client.models()] == ["sums", "other"]
        found = client.embed(sources)
        expected = np.stack([vector(image) for image in [IMAGES[0], *IMAGES]])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        tokens = client.tokens(sources)
        assert [t.shape for t in tokens[1:]] == [(i.shape[0] // 4, i.shape[1] // 4, 8) for i in IMAGES]
        np.testing.assert_allclose([t.sum((0, 1)) for t in tokens], expected, rtol=1e-4, atol=1e-5)
        classes = client.classify(sources, top=3)
        assert len(classes) == 11
        assert all(sorted(p.name for p in found) == sorted(LABELS) for found in classes)
        assert client.embed([]).shape == (0, 0)
        with pytest.raises(UsageError, match="expected a list of images"):
            client.embed(str(tmp_path / "x.png"))


def test_a_bad_image_is_named_by_its_place_in_all_of_them(url):
    with Client(url, batch=3) as client:
        for method in (client.embed, client.classify):
            with pytest.raises(ImageError, match="image 4: "):
                method([*IMAGES[:4], b"no image", *IMAGES[4:]])


def test_other_errors_are_typed(url):
    with Client(url, model="sumz") as client, pytest.raises(ServerError, match="no model named 'sumz'") as error:
        client.embed(IMAGES)
    assert (error.value.status, error.value.reason, error.value.hint) == (404, "no_such_model", "did you mean 'sums'?")
    assert error.value.request_id


class Scripted(httpx.MockTransport):
    """Answers from a list, the last one for ever."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests = 0
        super().__init__(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def overloaded(retry_after: str | None = None) -> httpx.Response:
    headers = {"retry-after": retry_after} if retry_after else {}
    error = {"message": "the queue is full", "type": "queue_full", "param": None, "request_id": "r"}
    return httpx.Response(429, json={"error": error}, headers=headers)


DONE = httpx.Response(200, content=json.dumps({"data": [{"id": "sums"}]}))


def test_retries_back_off_and_honour_retry_after():
    pauses: list[float] = []
    transport = Scripted(overloaded(), overloaded("7"), httpx.ConnectError("refused"), overloaded("soon"), DONE)
    with Client("http://x", transport=transport, sleep=pauses.append) as client:
        assert client.models() == [{"id": "sums"}]
    assert transport.requests == 5
    assert 0.05 <= pauses[0] <= 0.1
    assert pauses[1] == 7.0
    assert 0.2 <= pauses[2] <= 0.4
    assert 0.4 <= pauses[3] <= 0.8


def test_retries_end_and_other_statuses_are_not_retried():
    for answer, requests, status in (
        (overloaded(), 3, 429),
        (httpx.ReadError("reset"), 3, 0),
        (httpx.Response(500, text="<html>"), 1, 500),
        (httpx.Response(422, json={"error": "text", "type": "bad_request", "message": "m"}), 1, 422),
    ):
        transport = Scripted(answer)
        client = Client("http://x", transport=transport, retries=2, sleep=lambda seconds: None)
        with client, pytest.raises(ServerError) as error:
            client.models()
        assert (transport.requests, error.value.status) == (requests, status)
