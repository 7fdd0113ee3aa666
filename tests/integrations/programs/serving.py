"""``naflex-deploy serve`` in a process of its own, for the programs beside this one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def served(*arguments: object) -> Iterator[dict[str, dict[str, Any]]]:
    """The events that the server logs until it is ready, by name. It must end with 0."""
    command = [sys.executable, "-m", "naflex_deploy", "serve", *map(str, arguments), "--port", "0", "--notice", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    events: dict[str, dict[str, Any]] = {}
    try:
        while "ready" not in events:
            line = server.stderr.readline()
            assert line, "the server did not start"
            if line.startswith("{"):
                event = json.loads(line)
                events[event["event"]] = event
        yield events
    finally:
        server.send_signal(signal.SIGTERM)
        _, rest = server.communicate(timeout=60)
    assert server.returncode == 0, rest
