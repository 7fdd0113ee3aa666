"""Requests to a real server over real sockets, and to servers that misbehave."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from naflex_deploy.bench.load import http
from naflex_deploy.bench.load.http import Server, embedding_request, post, served_model
from naflex_deploy.bench.load.load import closed_loop, open_loop
from naflex_deploy.bench.load.stopping import Stopping
from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.runtime.scheduling.queue import Policy
from tests.serving.support import SummingSession, pixels, png, running

BRIEF = Stopping(width=1e-9, floor=0.0, cap=0.6)
IMAGE = png(pixels(0))


def test_a_server_answers_every_request():
    with running(names=("first", "sums")) as server:
        assert served_model(server.url, "sums") == "sums"
        with pytest.raises(UsageError, match=r"has no model 'elsewhere' \(pass --model; known: first, sums\)"):
            served_model(server.url, "elsewhere")
        requests = [embedding_request(png(pixels(seed)), url=server.url, model="sums") for seed in range(3)]
        with Server(server.url, requests) as target:
            open_ = open_loop(target.send, 100.0, BRIEF, seed=1)
            closed = closed_loop(target.send, 8, BRIEF)
        assert set(open_.statuses) == set(closed.statuses) == {"ok"}
        assert len(open_.ok) > 20
        assert server.service.models.get("sums").scheduler.admitted_tokens == 0


def test_a_full_queue_and_a_missing_key_are_not_results():
    with running(SummingSession(seconds=0.2), policy=Policy(queue_tokens=64)) as server:
        requests = [embedding_request(IMAGE, url=server.url, model="sums")]
        with Server(server.url, requests) as target:
            found = open_loop(target.send, 100.0, BRIEF, seed=1)
        assert found.share("rejected") > 0.3
        assert found.share("ok") > 0
        assert found.share("ok", "rejected") == 1
    with running(keys=("secret",)) as server:
        for key, status in (("", "error"), ("secret", "ok")):
            requests = [embedding_request(IMAGE, url=server.url, model="sums", api_key=key)]
            with Server(server.url, requests) as target:
                assert set(closed_loop(target.send, 1, BRIEF).statuses) == {status}
        assert served_model(server.url, "sums", "secret") == "sums"
        with pytest.raises(NaflexError, match="no server lists its models"):
            served_model(server.url, "x")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "file:///etc/hosts",
        "ftp://host",
        "",
        "http://host:99999",
        "http://[::1",
        "http://host/prefix",
        "http://host?key=1",
        "http://user:secret@host",
    ],
)
def test_what_is_no_url_of_a_server(url):
    for attempt in (lambda: served_model(url, "x"), lambda: Server(url, [b""])):
        with pytest.raises(UsageError, match="expected the URL of a server") as caught:
            attempt()
        assert "secret" not in str(caught.value)


def test_no_server_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NaflexError, match="no server answers at"), Server(url, [b""]):
            pass
        with pytest.raises(NaflexError, match="no server lists its models"):
            served_model(url, "x")


ANSWERS = {
    "in pieces": [b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n", b"\r\nab", b"cd"],
    "in chunks": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n", b"0\r\n\r\n"],
    # The first piece ends as the last chunk does, and the last piece has a trailer.
    "in chunks with zeros": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nx\r0\r\n\r\n",
        b"\r\n0;last\r\nchecksum: 1\r\n\r\n",
    ],
    "in chunks without an end": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\nx\r0\r\n\r\n",
        None,
    ],
    "without content": [b"HTTP/1.1 204 none\r\n\r\n"],
    "announced": [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"],
    "the last of its connection": [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab", None],
    "not HTTP": [b"SSH-2.0\r\n"],
    "refused": [b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"],
    "late": [b"HTTP/1.1 504 late\r\ncontent-length: 0\r\n\r\n"],
    "cut": [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab", None],
    "closed": [None],
}
EXPECTED = {
    "in pieces": "ok",
    "in chunks": "ok",
    "in chunks with zeros": "ok",
    "in chunks without an end": "error",
    "without content": "error",
    "announced": "rejected",
    "the last of its connection": "ok",
    "not HTTP": "error",
    "refused": "rejected",
    "late": "late",
    "cut": "error",
    "closed": "error",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_of_any_kind_are_taken_for_what_they_are(kind, monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS", 2)  # Lost connections are replaced.
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    received: list[bytes] = []

    def serve() -> None:
        for _ in range(12):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while content := connection.recv(1 << 16):
                received.append(content)
                for piece in ANSWERS[kind]:
                    if piece is None:
                        return
                    connection.sendall(piece)
                    time.sleep(0.005)

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Server(url, [post("/x", b"body", {"a": "b"})]) as target:
        found = []
        for number in range(3):
            done = threading.Event()
            target.send(number, lambda status, done=done: (found.append(status), done.set()))
            assert done.wait(10)
    assert found == [EXPECTED[kind]] * 3
    assert received[0] == b"POST /x HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 4\r\na: b\r\n\r\nbody"
    listener.close()
