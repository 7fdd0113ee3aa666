"""What attackers send who know the protocol well: its rare parts without end, answers that nobody reads, long lists."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from benchmarks.attack.senders import EMBED, INFER, JSON, Seen, post_all, run
from benchmarks.serving.fake_server import jpeg
from naflex_deploy.bench.load.http import post
from tests.support.pdfs import pdf

LINES = {"accept": "application/x-ndjson", "content-type": "application/json"}
READ = 1 << 16


def pipelines(port: int, seconds: float, seed: int) -> Seen:
    """Thousands of requests at once, over 8 connections."""
    return _spam(port, seconds, 8, lambda number: (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 12_000, b""))


def trailers(port: int, seconds: float, seed: int) -> Seen:
    """Trailers, notes at chunks, and small chunks without end, over 8 connections."""
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    kinds = [
        (head + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 40_000),
        (head + b"1\r\nx\r\n0\r\na: ", b"b" * (1 << 18)),
        (head + b"1;", b"b" * (1 << 18)),
        (head, b"1\r\nx\r\n" * 43_000),
    ]
    return _spam(port, seconds, 8, lambda number: kinds[number % len(kinds)])


def unread(port: int, seconds: float, seed: int) -> Seen:
    """Pages, and lists answered line by line, of which nobody reads a byte, over 64 connections."""
    picture = base64.b64encode(jpeg(64, 64, seed)).decode()
    many = post(EMBED, json.dumps({"input": [picture] * 4000}).encode(), LINES)
    pages = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 16
    end, seen = time.monotonic() + seconds, Counter[str]()

    def loop(number: int) -> None:
        while time.monotonic() < end:
            with suppress(OSError), socket.socket() as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sender.settimeout(5)
                sender.connect(("127.0.0.1", port))
                sender.sendall(many if number % 16 == 0 else pages)
                seen["clients"] += 1
                time.sleep(max(0.0, min(end - time.monotonic(), 6.0)))

    run(loop, 64)
    return seen


def leaving(port: int, seconds: float, seed: int) -> Seen:
    """Clients of lists answered line by line, who leave in the middle, over 8 connections."""
    picture = base64.b64encode(jpeg(64, 64, seed)).decode()
    many = post(EMBED, json.dumps({"input": [picture] * 4000}).encode(), LINES)
    end, seen = time.monotonic() + seconds, Counter[str]()

    def loop(number: int) -> None:
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as sender:
                sender.sendall(many)
                seen[sender.recv(READ)[9:12].decode() + ", then left"] += 1

    run(loop, 8)
    return seen


def lists(port: int, seconds: float, seed: int) -> Seen:
    """10,000 inputs, documents of 5,000 pages, texts of a megabyte, and headers of 8 kB, over 8 connections."""
    picture = base64.b64encode(jpeg(64, 64, seed)).decode()
    document = base64.b64encode(pdf(["0 0 9 9 re f"] * 5000)).decode()
    text = {"text": "a word " * 150_000}
    inputs = ([picture] * 10_000, document, {"image": document, "page": 4999}, text, ["a"] * 10_000)
    headers = {**JSON, "traceparent": "0" * 8000, "tracestate": "a=b," * 2000, "x-request-id": "i" * 8000}
    return post_all(port, seconds, [(EMBED, json.dumps({"input": one}).encode()) for one in inputs], 8, headers)


def _spam(port: int, seconds: float, threads: int, sent: Callable[[int], tuple[bytes, bytes]]) -> Seen:
    """Send a start and then, again and again, the rest; count how connections end."""
    end, seen = time.monotonic() + seconds, Counter[str]()

    def loop(number: int) -> None:
        start, rest = sent(number)
        while time.monotonic() < end:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sender:
                found = b""
                with suppress(OSError):
                    sender.sendall(start)
                    while rest and time.monotonic() < end:
                        sender.sendall(rest)
                    while part := sender.recv(READ):
                        found += part
                last = found.rpartition(b"HTTP/1.1 ")[2][:3].decode()
                seen[last or "ended by the server"] += 1

    run(loop, threads)
    return seen
