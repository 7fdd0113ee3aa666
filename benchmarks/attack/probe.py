"""Ask an attacked server for its health and for good answers: ``python -m benchmarks.attack.probe PORT SECONDS``.

It comes from an address of its own, 127.0.0.2, and prints JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time

from benchmarks.serving.fake_server import raw_request

PATIENCE = 5.0
"""Seconds within which a good request must be answered, refusals and new tries included."""


class Asker:
    """A kept-alive connection, which is opened again where it ends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        """The status of the answer; 0 where there is none."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self._port, timeout=PATIENCE, source_address=("127.0.0.2", 0)
                )
            self._connection.request(method, path, body, headers or {})
            answer = self._connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return 0


def probe(port: int, seconds: float) -> dict[str, object]:
    """Milliseconds of every answer, and how many good requests were not answered in time."""
    head, _, content = raw_request(32).partition(b"\r\n\r\n")
    path = head.split(b" ")[1].decode()
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    headers = {name.decode(): value.decode() for name, value in lines}
    health, good, failed = [], [], 0
    asker = Asker(port)
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        started = time.perf_counter()
        status = asker.ask("GET", "/v2/health/ready")
        health.append(1e3 * (time.perf_counter() - started if status == 200 else PATIENCE))
        if turn % 10 == 0:
            started = time.perf_counter()
            while (status := asker.ask("POST", path, content, headers)) != 200:
                if time.perf_counter() - started > PATIENCE:
                    break
                time.sleep(0.02)
            good.append(1e3 * (time.perf_counter() - started))
            failed += status != 200
        turn += 1
        time.sleep(0.02)
    return {"health": health, "good": good, "unanswered": failed}


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # which needs a right; attackers on the same core are not to slow it down
        os.nice(-10)
    print(json.dumps(probe(int(sys.argv[1]), float(sys.argv[2]))))
