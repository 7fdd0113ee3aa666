"""Connections: their number, their headers, their idle time, and refusals that arrive."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.receiving.gentle import JOINED, Gentle
from naflex_deploy.serving.http.receiving.room import Room
from tests.serving.support import running, wait_until

PATH = "/v2/models/sums/infer"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60))
def test_a_client_gets_room_while_it_holds_no_more_than_is_free(wanted):
    room, held = Room(100), [0] * 4
    for client, amount in wanted:
        free = 100 - sum(held)
        if room.take(str(client), amount):
            assert held[client] + amount <= free
            held[client] += amount
        else:
            assert held[client] + amount > free
            room.give_back(str(client), held[client])
            held[client] = 0
        assert room.used == sum(held) <= 100
    for client, amount in enumerate(held):
        room.give_back(str(client), amount)
    assert (room.used, room._held) == (0, {})


def connected(server, source: str = "127.0.0.1") -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))


def everything(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def send_forever(connection: socket.socket) -> None:
    for _ in range(1 << 10):
        connection.sendall(bytes(1 << 16))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_refusal_reaches_a_client_that_still_sends(version):
    """A reset would take the answer away: the rest of the body is read until the client ends."""
    with running(limits=Limits(body_bytes=1 << 20)) as server:
        for length, status in ((1 << 24, b"413"), (1 << 19, b"404")):
            with connected(server) as sender:
                path = PATH if status == b"413" else "/v2/models/none/infer"
                head = f"POST {path} HTTP/{version}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                sender.sendall(head.encode())
                time.sleep(0.02)
                sender.sendall(bytes(1 << 19))
                time.sleep(0.02)
                assert status in everything(sender).split(b"\r\n")[0]


def test_what_is_read_after_a_refusal_is_bounded():
    with running(limits=Limits(body_bytes=1 << 16)) as server, connected(server) as sender:
        sender.sendall(f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {1 << 30}\r\n\r\n".encode())
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_forever(sender)


def test_headers_have_a_size_and_a_time():
    with running(limits=Limits(receive_seconds=0.2, head_bytes=1000)) as server:
        with connected(server) as sender:
            sender.sendall(b"GET /v2/health/ready HTTP/1.1\r\nx: " + bytes([97]) * 2000)
            assert b"431" in everything(sender).split(b"\r\n")[0]
        with connected(server) as sender:
            sender.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n")
            assert b"408" in everything(sender).split(b"\r\n")[0]
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'naflex_rejections_total{reason="headers_too_large"} 1.0' in metrics
        assert 'naflex_rejections_total{reason="too_slow"} 1.0' in metrics


def test_idle_connections_are_closed_before_and_after_a_request():
    with running(limits=Limits(idle_seconds=1)) as server, connected(server) as silent, connected(server) as used:
        used.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
        assert used.recv(1000).startswith(b"HTTP/1.1 200")
        used.sendall(b"\r\n")  # no request begins
        assert everything(silent) == b""
        assert everything(used) == b""


def test_one_client_leaves_connections_to_others():
    with running(limits=Limits(connections=8)) as server, ExitStack() as stack:
        kept = [stack.enter_context(connected(server)) for _ in range(4)]
        with connected(server) as refused:
            assert b" 503 " in everything(refused).split(b"\r\n")[0]
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport) as other:
            assert other.get(f"{server.url}/v2/health/ready").status_code == 200
        kept[0].close()

        def taken_again() -> bool:
            try:
                return httpx.get(f"{server.url}/v2/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(taken_again)


def test_headers_leave_with_the_start_of_the_body():
    written: list[bytes] = []
    transport, connection = SimpleNamespace(write=written.append), SimpleNamespace(cycle=None)
    gentle = Gentle(transport, lambda: connection.cycle, lambda: False, lambda: written.append(b"closed"))

    def begin(head: bytes) -> None:
        connection.cycle = SimpleNamespace(response_started=False)
        gentle.write(b"continue")
        connection.cycle.response_started = True
        gentle.write(head)

    gentle.write(b"a refusal")
    begin(b"head ")
    assert written == [b"a refusal", b"continue"]
    gentle.write(b"body")
    gentle.write(b"more")
    assert written[2:] == [b"head body", b"more"]
    begin(b"large ")
    gentle.write(bytes(JOINED))
    assert written[4:] == [b"continue", b"large ", bytes(JOINED)]
    begin(b"no body")
    gentle.close()
    assert written[7:] == [b"continue", b"no body", b"closed"]


def test_answers_without_a_body_and_of_pipelined_requests_arrive():
    """In order, over one connection; the last one is not pipelined, and its headers wait for no body."""
    with running() as server, connected(server) as connection:
        one = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
        connection.sendall(2 * one + one.replace(b"GET", b"HEAD"))
        found = b""
        while found.count(b"\r\n\r\n") < 3:
            found += connection.recv(65536)
        assert [line[9:12] for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")] == [
            b"200",
            b"200",
            b"405",
        ]
