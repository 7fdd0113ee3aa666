"""Answers line by line."""

from __future__ import annotations

import base64
import json

import httpx
import numpy as np

from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.serving.http.limits import Limits
from tests.serving.support import SummingSession, pixels, png, running, vector, wait_until

NDJSON = {"accept": "application/x-ndjson"}


def encoded(number: int) -> str:
    return base64.b64encode(png(pixels(number))).decode()


def lines(answer: httpx.Response) -> list[dict]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_list_longer_than_the_queue_is_answered_whole():
    images = [encoded(number) for number in range(40)]
    # Six tokens an image: the queue holds those of four.
    with running(SummingSession(), policy=Policy(queue_tokens=64), limits=Limits(items=4)) as server:
        refused = httpx.post(f"{server.url}/v1/embeddings", json={"input": images})
        assert refused.json()["error"]["type"] == "too_many_items"
        *found, last = lines(
            httpx.post(f"{server.url}/v1/embeddings", json={"input": images}, headers=NDJSON, timeout=60)
        )
        wait_until(lambda: server.service.buffers.room.used == 0)
    assert (last["object"], last["entries"], last["errors"]) == ("summary", 40, 0)
    assert last["usage"]["total_tokens"] == 40 * 6
    assert sorted(item["index"] for item in found) == list(range(40))
    for item in found:
        np.testing.assert_allclose(item["embedding"], vector(pixels(item["index"])), rtol=1e-5, atol=1e-6)


def test_a_bad_item_has_an_error_of_its_own():
    images = [encoded(0), base64.b64encode(b"x" * 99).decode(), {"text": "a cat"}, encoded(3)]
    with running() as server:
        *found, last = lines(httpx.post(f"{server.url}/v1/classify", json={"input": images, "top": 1}, headers=NDJSON))
        whole = httpx.post(f"{server.url}/v1/embeddings", json={"input": images, "dimensions": 4}, headers=NDJSON)
    by_index = {item["index"]: item for item in found}
    assert [sorted(by_index[number]) for number in (0, 3)] == [["classes", "index", "object"]] * 2
    assert by_index[1]["error"]["type"] == "bad_image"
    assert [by_index[number]["error"]["param"] for number in (1, 2)] == ["input[1]", "input[2]"]
    assert (last["entries"], last["errors"]) == (2, 2)
    assert (whole.status_code, whole.json()["error"]["param"]) == (422, "dimensions")


def test_a_reader_that_leaves_frees_everything():
    session = SummingSession(seconds=0.05)
    images = [encoded(number) for number in range(60)]
    with running(session) as server:
        with (
            httpx.Client(base_url=server.url) as client,
            client.stream("POST", "/v1/embeddings", json={"input": images}, headers=NDJSON) as answer,
        ):
            assert next(answer.iter_lines())
        scheduler = server.models.get().scheduler
        wait_until(lambda: scheduler.admitted_tokens == 0)
        wait_until(lambda: server.service.buffers.room.used == 0)
