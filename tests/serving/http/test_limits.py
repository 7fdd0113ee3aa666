"""Limits of requests, overload, and requests that end badly, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import threading
import time
import zlib

import httpx
import pytest

from naflex_deploy.runtime.images.patchify import patchify
from naflex_deploy.runtime.scheduling.queue import Policy
from naflex_deploy.serving.http.limits import Limits
from tests.serving.support import SummingSession, pixels, png, running, vector, wait_until


def huge_png(width: int, height: int) -> bytes:
    """A header that promises this many pixels, and nothing else."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def request(image: bytes) -> dict:
    return {"json": {"input": base64.b64encode(image).decode()}}


class Gate(SummingSession):
    """Runs packs when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def run(self, pack, outputs):
        self.entered.release()
        assert self.go.wait(20)
        return super().run(pack, outputs)


def test_images_are_refused_by_their_header():
    with running(limits=Limits(pixels=10**6, aspect=50)) as server:
        for image, message in [
            (huge_png(60_000, 60_000), "at most 1000000 pixels"),
            (huge_png(1_000, 10), "at most 50:1"),
            (b"%!PS-Adobe-3.0" + bytes(20), "expected JPEG, PNG"),
        ]:
            answer = httpx.post(f"{server.url}/v1/embeddings", **request(image))
            assert (answer.status_code, answer.json()["error"]["type"]) == (422, "bad_image")
            assert message in answer.json()["error"]["message"]


def test_a_body_too_large_is_refused_declared_or_not():
    with running(limits=Limits(body_bytes=1000)) as server:
        url = f"{server.url}/v2/models/sums/infer"
        assert httpx.post(url, content=bytes(1001)).status_code == 413
        assert httpx.post(url, content=iter([bytes(600), bytes(600)])).status_code == 413
        assert httpx.post(url, content=bytes(1000)).status_code == 422


def test_bodies_of_all_requests_together_are_bounded():
    """Room is taken by what has arrived, not by what is announced, and one client leaves room for others."""
    with running(limits=Limits(body_bytes=1000, buffered_bytes=1500, receive_seconds=5)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        room, url = server.service.buffers.room, f"{server.url}/v2/models/sums/infer"
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v2/models/sums/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + bytes(600))
            wait_until(lambda: room.used == 600)
            for content in (bytes(400), iter([bytes(200), bytes(200)])):
                answer = httpx.post(url, content=content)
                assert (answer.status_code, answer.json()["type"]) == (429, "buffers_full")
            assert httpx.post(url, content=bytes(100)).status_code == 422
            with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
                assert other.post(url, content=bytes(400)).status_code == 422
        wait_until(lambda: room.used == 0)


def test_a_slow_sender_gets_408():
    with running(limits=Limits(receive_seconds=0.1)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v2/models/sums/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
            assert b" 408 " in slow.recv(1000).split(b"\r\n")[0]
        assert server.service.buffers.room.used == 0


def test_overload_is_429_with_retry_after_and_health_stays_good():
    session = Gate()
    with running(session, policy=Policy(queue_tokens=70, max_wait=0)) as server:
        url = f"{server.url}/v1/embeddings"
        answers: list[httpx.Response] = []
        image = request(png(pixels(0, 16, 16)))  # 16 tokens
        threads = [
            threading.Thread(target=lambda: answers.append(httpx.post(url, timeout=30, **image))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        assert session.entered.acquire(timeout=10)
        wait_until(lambda: server.models.get().scheduler.admitted_tokens == 64)
        refused = httpx.post(url, **image)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        session.go.set()
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200] * 4
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'naflex_rejections_total{reason="queue_full"} 1.0' in metrics
        assert 'naflex_images_total{model="sums"} 4.0' in metrics
        assert 'naflex_admitted_tokens{model="sums"} 0.0' in metrics


def status_of_a_request_without_its_body(url: str, path: str) -> bytes:
    """The first line of the answer to headers that announce a body which is never sent."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sender:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
        sender.sendall(head.encode())
        return sender.recv(1000).split(b"\r\n")[0]


@pytest.mark.parametrize("path", ["/v2/models/sums/infer", "/v1/embeddings"])
def test_overload_is_answered_before_a_body_is_received(path):
    session = Gate()
    with running(session, policy=Policy(queue_tokens=16, max_wait=0)) as server:
        scheduler = server.models.get().scheduler
        (future,) = scheduler.submit([patchify(pixels(0, 16, 16), 4)])
        assert session.entered.acquire(timeout=10)
        assert b" 429 " in status_of_a_request_without_its_body(server.url, path)
        assert server.service.buffers.room.used == 0
        session.go.set()
        future.result(10)


@pytest.mark.parametrize("limits", [Limits(deadline_seconds=0.2), Limits(goal_seconds=0.2)])
def test_a_queue_longer_than_the_deadline_or_the_goal_is_overload_too(limits):
    """The first pack tells the queue how slow the engine is."""
    with running(SummingSession(seconds=0.2), limits=limits) as server:
        scheduler = server.models.get().scheduler
        image = patchify(pixels(0, 16, 16), 4)
        scheduler.submit([image] * 4)[0].result(10)
        waiting = scheduler.submit([image] * 40)
        assert b" 429 " in status_of_a_request_without_its_body(server.url, "/v2/models/sums/infer")
        for future in waiting:
            future.cancel()


def test_a_bug_is_a_500_in_the_one_schema_and_a_traceback_in_the_log(caplog, monkeypatch):
    with caplog.at_level("INFO", logger="naflex_deploy.serving"), running() as server:
        monkeypatch.setattr(server.models.get().scheduler, "check", lambda *arguments: 1 / 0)
        for path in ("/v2/models/sums/infer", "/v1/embeddings"):
            answer = httpx.post(f"{server.url}{path}", **request(png(pixels(0))))
            content = answer.json() if path.startswith("/v2") else answer.json()["error"]
            assert (answer.status_code, content["type"], content["code"]) == (500, "internal", 500)
            assert "ZeroDivisionError" in content["message"]
            assert content["request_id"] == answer.headers["x-request-id"]
        wait_until(lambda: [r.message for r in caplog.records].count("failed") == 2)
        assert all(record.exc_info for record in caplog.records if record.message == "failed")


def test_other_methods_and_paths_are_refused_in_the_one_schema():
    with running() as server:
        answer = httpx.get(f"{server.url}/v2/models/sums/infer")
        assert (answer.status_code, answer.json()["type"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        answer = httpx.post(f"{server.url}/v1/models", content=b"")
        assert (answer.status_code, answer.json()["error"]["type"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "GET"
        answer = httpx.post(f"{server.url}/v2/models/sums/versions/2/infer", content=b"")
        assert (answer.status_code, answer.json()["type"]) == (404, "not_found")
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'naflex_requests_total{route="/v2/models/{name}/infer",status="405"} 1.0' in metrics


def test_a_deadline_is_answered_although_the_engine_hangs():
    session = Gate()
    with running(session) as server:
        image = base64.b64encode(png(pixels(0))).decode()
        started = time.monotonic()
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": image, "timeout": 0.2})
        assert (answer.status_code, answer.json()["error"]["type"]) == (504, "deadline")
        assert time.monotonic() - started < 5
        session.go.set()


def test_a_sender_who_leaves_takes_its_images_along():
    session = Gate()
    with running(session, policy=Policy(queue_tokens=200, max_wait=0)) as server:
        scheduler = server.models.get().scheduler

        async def leave() -> None:
            async with httpx.AsyncClient() as client:
                first = asyncio.ensure_future(client.post(f"{server.url}/v1/embeddings", **request(png(pixels(0)))))
                await asyncio.to_thread(session.entered.acquire, timeout=10)
                second = asyncio.ensure_future(client.post(f"{server.url}/v1/embeddings", **request(png(pixels(1)))))
                await asyncio.to_thread(wait_until, lambda: scheduler.waiting_tokens == 6)
                second.cancel()
                await asyncio.to_thread(wait_until, lambda: scheduler.waiting_tokens == 0)
                session.go.set()
                assert (await first).status_code == 200

        asyncio.run(leave())
        wait_until(lambda: scheduler.admitted_tokens == 0)
        wait_until(lambda: 'reason="client_left"} 1.0' in httpx.get(f"{server.url}/metrics").text)


def test_draining_is_not_ready_and_503_but_alive():
    with running() as server:
        server.service.draining = True
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        answer = httpx.post(f"{server.url}/v1/embeddings", **request(png(pixels(0))))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["type"] == "draining"


def test_an_engine_that_returns_nan_fails_only_that_image():
    class Poisoned(SummingSession):
        def run(self, pack, outputs):
            found = super().run(pack, outputs)
            if (pack.patches[:, 0] == 255).any():
                found = {name: values * float("nan") for name, values in found.items()}
            return found

    poison, good = pixels(0), pixels(1) // 2
    poison[0, 0, 0] = 255
    with running(Poisoned(), policy=Policy(max_wait=0.05)) as server:
        answers = {}

        def send(name, image):
            answers[name] = httpx.post(f"{server.url}/v1/embeddings", **request(png(image)))

        threads = [threading.Thread(target=send, args=entry) for entry in (("poison", poison), ("good", good))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers["poison"].status_code == 500
        assert answers["poison"].json()["error"]["type"] == "engine_failed"
        assert answers["good"].json()["data"][0]["embedding"] == pytest.approx(vector(good), rel=1e-4, abs=1e-6)


def test_keys_are_asked_for_everywhere_but_health_and_page():
    with running(keys=("secret-1", "secret-2")) as server, httpx.Client(base_url=server.url) as http:
        for path in ("/v2/health/live", "/v2/health/ready", "/"):
            assert http.get(path).status_code == 200
        for path in ("/metrics", "/v1/models", "/v2/models/sums", "/openapi.json", "/nothing"):
            assert http.get(path).status_code == 401
            assert http.get(path, headers={"authorization": "Bearer secret"}).status_code == 401
        answer = http.post("/v1/embeddings", **request(png(pixels(0))))
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "no_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/models", headers={"authorization": "bearer secret-2"}).status_code == 200
        assert http.get("/metrics", headers={"x-api-key": "secret-1"}).status_code == 200


def test_request_ids_are_echoed_or_made_and_logged(caplog):
    with caplog.at_level("INFO", logger="naflex_deploy.serving"), running() as server:
        url = f"{server.url}/v1/embeddings"
        assert httpx.post(url, headers={"x-request-id": "mine-7"}, **request(b"x")).headers["x-request-id"] == "mine-7"
        odd = httpx.post(url, headers={"x-request-id": "a b\t{}"}, **request(png(pixels(0)))).headers["x-request-id"]
        assert len(odd) == 32
        wait_until(lambda: len([r for r in caplog.records if r.message == "request"]) == 2)
    from naflex_deploy.serving.http.logs.lines import JsonLines

    first, second = [json.loads(JsonLines().format(r)) for r in caplog.records if r.message == "request"]
    assert first["request_id"] == "mine-7"
    assert (first["status"], first["reason"], first["level"]) == (422, "bad_image", "info")
    assert (second["request_id"], second["status"], second["images"], second["tokens"]) == (odd, 200, 1, 6)
    assert second["ms"] > 0
