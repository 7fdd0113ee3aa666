"""What attackers send. Each sender runs for some seconds, from some threads, and counts what it gets."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.serving.fake_server import raw_request
from benchmarks.serving.load import open_loop

INFER, EMBED = "/v2/models/fake/infer", "/v1/embeddings"
JSON = {"content-type": "application/json"}
LARGEST = 32 << 20
CAPACITY = 200
"""Requests per second that the fake engine of an attack takes."""

Seen = Counter[str]


def post_all(
    port: int, seconds: float, requests: Sequence[tuple[str, bytes]], threads: int, headers: dict[str, str] = JSON
) -> Seen:
    """Post bodies in turn from so many connections."""
    end = time.monotonic() + seconds
    seen: Seen = Counter()
    lock = threading.Lock()

    def loop(first: int) -> None:
        turn = first
        while time.monotonic() < end:
            path, body = requests[turn % len(requests)]
            turn += 1
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                answer.read()
                found = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                found = type(error).__name__
            connection.close()
            with lock:
                seen[found] += 1

    run(loop, threads)
    return seen


def run(loop: Callable[[int], None], threads: int) -> None:
    started = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def hostile_json(port: int, seconds: float, seed: int) -> Seen:
    head = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1],"data":['
    bodies = []
    for unit in (b"[],", b"{},", b'"",', b"1,", b"2.5,", b"9" * 4200 + b",", b'"\\n",', b"[" * 100, b" ", b'{"a":1},'):
        count = (LARGEST - 200) // len(unit)
        bodies.append((INFER, head + unit * count + b"1]}]}"))
    bodies.append((INFER, head + b'"' + b"\\u0041" * ((LARGEST - 200) // 6) + b'"]}]}'))
    bodies.append((EMBED, b'{"input":[' + b"1," * ((LARGEST - 200) // 2) + b"1]}"))
    bodies.append((INFER, head + b"255," * (250_000) + b"1]}]}"))
    random.Random(seed).shuffle(bodies)
    return post_all(port, seconds, bodies, 4)


def hostile_shapes(port: int, seconds: float, seed: int) -> Seen:
    bodies = []
    for dimension, count in ((b"9" * 4000, 100), (b"99999", 70_000), (b"9" * 400_000, 1), (b"9" * 4000, 7)):
        for name, kind in (("images", "BYTES"), ("pixels", "UINT8")):
            shape = b",".join([dimension] * count)
            front = f'{{"inputs":[{{"name":"{name}","datatype":"{kind}","data":[],"shape":['.encode()
            bodies.append((INFER, front + shape + b"]}]}"))
    return post_all(port, seconds, bodies, 4)


def many_frames(port: int, seconds: float, seed: int) -> Seen:
    """Files of many pages, and single pictures of formats that are slow to read, on more threads than decode."""
    page = Image.fromarray(np.zeros((16, 16), np.uint8))
    pages = BytesIO()
    page.save(pages, "TIFF", save_all=True, append_images=[page] * 3000)
    frames = BytesIO()
    images = [Image.fromarray(np.full((16, 16), number % 251, np.uint8)) for number in range(1000)]
    images[0].save(frames, "GIF", save_all=True, append_images=images[1:])
    noise = np.random.default_rng(seed).integers(0, 256, (2000, 2000), np.uint8)
    files = [pages.getvalue(), frames.getvalue()] * 3
    for form, options in (("GIF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG2000", {})):
        large = BytesIO()
        Image.fromarray(noise).save(large, form, **options)
        files.append(large.getvalue())
    bodies = [(EMBED, json.dumps({"input": base64.b64encode(file).decode()}).encode()) for file in files]
    return post_all(port, seconds, bodies, 8)


def slow_senders(port: int, seconds: float, seed: int) -> Seen:
    """64 of them, each of a body of 32 MiB."""
    end = time.monotonic() + seconds
    seen: Seen = Counter()

    def loop(number: int) -> None:
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=20) as sender:
                    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGEST}\r\n\r\n"
                    sender.sendall(head.encode() + bytes(1 << 20))
                    while time.monotonic() < end:
                        sender.sendall(bytes(1000))
                        time.sleep(0.2)
            except OSError:
                seen["ended by the server"] += 1

    run(loop, 64)
    return seen


def flood(port: int, seconds: float, seed: int, capacity: float = CAPACITY) -> Seen:
    """Five times what the engine takes."""
    found = asyncio.run(open_loop(port, [raw_request(64)], 5 * capacity, seconds, connections=200, seed=seed))
    return Counter({str(status): count for status, count in found.statuses.items()})


def closing_senders(port: int, seconds: float, seed: int, capacity: float = CAPACITY) -> Seen:
    """As an HTTP/1.0 proxy: every body of 1 MiB comes over a connection of its own, while the queue is full."""
    image = base64.b64encode(random.Random(seed).randbytes(1 << 20)).decode()
    body = json.dumps({"input": image}).encode()
    waiting = multiprocessing.get_context("spawn").Process(target=flood, args=(port, seconds, seed, capacity))
    waiting.start()
    seen = post_all(port, seconds, [(EMBED, body)], 16, {**JSON, "connection": "close"})
    waiting.join()
    return seen


def reloads(port: int, seconds: float, seed: int, pid: int) -> Seen:
    """SIGHUP twenty times a second."""
    stop = threading.Event()

    def signals() -> None:
        while not stop.wait(0.05):
            os.kill(pid, signal.SIGHUP)

    thread = threading.Thread(target=signals)
    thread.start()
    found = asyncio.run(open_loop(port, [raw_request(64)], CAPACITY / 2, seconds, connections=50, seed=seed))
    stop.set()
    thread.join()
    return Counter({str(status): count for status, count in found.statuses.items()})
