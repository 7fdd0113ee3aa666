"""What a connection may send beside sound requests: bounded, answered by name, and in order."""

from __future__ import annotations

import base64
import json
import socket
from contextlib import contextmanager

import numpy as np
import pytest

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.receiving import parsing
from tests.serving.support import pixels, png, running, vector, wait_until

H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: A\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /v2/models/sums/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    with running(limits=Limits(head_bytes=4000, receive_seconds=5)) as found:
        yield found


@contextmanager
def connected(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def answers(server, *parts: bytes) -> list[tuple[int, dict]]:
    """Status and content of each answer to what is sent, until the server ends the connection."""
    found = b""
    with connected(server) as connection:
        for part in parts:
            connection.sendall(part)
        while part := connection.recv(1 << 16):
            found += part
    seen = []
    while found:
        head, _, found = found.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        body, found = found[:length], found[length:]
        seen.append((int(head.split()[1]), json.loads(body) if body else {}))
    return seen


def said(server, *parts: bytes) -> list[tuple[int, str]]:
    """Status and type of each answer."""
    return [(status, content.get("type", "")) for status, content in answers(server, *parts)]


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01"], (400, "bad_request")),  # TLS
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], (400, "bad_request")),
        ([b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (parsing.FIELDS + 2)], (431, "headers_too_large")),
        ([b"GET / HTTP/1.1\r\na: ", b"a" * 500_000], (431, "headers_too_large")),
        ([CHUNKED, b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * (parsing.FIELDS + 2)], (431, "headers_too_large")),
        ([CHUNKED + b"1\r\nx\r\n0\r\na: ", b"a" * 500_000], (431, "headers_too_large")),
        ([CHUNKED + b"1;a=", b"a" * 500_000], (431, "headers_too_large")),
        ([CHUNKED, b"1\r\nx\r\n" * (parsing.PARTS + 100)], (400, "bad_request")),
    ],
)
def test_what_is_no_request_or_never_ends_is_refused_by_name_after_what_came_before(server, parts, answer):
    assert said(server, *parts) == [answer]
    assert said(server, 2 * LIVE + parts[0], *parts[1:]) == [(200, ""), (200, ""), answer]


def test_only_so_many_requests_wait_for_the_answers_before_them(server):
    found = said(server, LIVE * (parsing.WAITING + 50))
    assert found == [(200, "")] * (parsing.WAITING + 1) + [(400, "bad_request")]


def test_a_request_that_is_answered_is_not_answered_again_where_its_body_goes_wrong(server):
    with connected(server) as connection:
        connection.sendall(CHUNKED.replace(b"sums", b"none"))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")
        connection.sendall(b"nothing\r\n")
        assert connection.recv(1 << 16) == b""


@pytest.mark.parametrize("upgrade", [b"", H2C])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("step", [7, 500_000])
def test_chunks_trailers_and_offers_of_other_protocols_do_not_change_a_request(server, upgrade, chunked, step):
    image = pixels(1)
    body = json.dumps({"input": base64.b64encode(png(image)).decode()}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + upgrade
    if chunked:
        parts = (body[:1], body[1:30], body[30:])
        content = b"".join(b"%x;note=a\r\n%s\r\n" % (len(part), part) for part in parts)
        sent = head + b"transfer-encoding: chunked\r\n\r\n" + content + b"0\r\ndigest: a\r\n\r\n"
    else:
        sent = head + b"content-length: %d\r\n\r\n" % len(body) + body
    sent += sent + LIVE.replace(b"host", b"connection: close\r\nhost")
    with_pauses = [sent[at : at + step] for at in range(0, len(sent), step)]
    (one, first), (two, second), (three, _) = answers(server, *with_pauses)
    assert (one, two, three) == (200, 200, 200)
    for found in (first, second):
        np.testing.assert_allclose(found["data"][0]["embedding"], vector(image), rtol=1e-5)


def test_a_client_that_reads_no_answers_has_a_share_of_the_memory_for_them():
    with running(limits=Limits(buffered_bytes=400_000)) as server:
        server.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ask = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        with connected(server) as reader:
            reader.sendall(ask.replace(b"host", b"connection: close\r\nhost"))
            size = sum(iter(lambda: len(reader.recv(1 << 16)), 0))
        kept = []
        for _ in range(2 * 400_000 // size):
            host, port = server.url.removeprefix("http://").split(":")
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(ask)
            kept.append(connection)
        wait_until(lambda: b'reason="unread"' in server.metrics.text())
        for connection in kept:
            connection.close()
