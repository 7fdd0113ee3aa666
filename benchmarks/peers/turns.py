"""Contenders in processes of their own that take turns, all others asleep.

In one process, thread pools that wait for work by spinning take the cores from whoever has its turn: torch's, ONNX
Runtime's and OpenVINO's made each other up to one and a half times as slow.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from naflex_deploy.core.errors import BenchmarkError

SETTLE = 0.05
"""Seconds before a turn in which the pools of the one before stop spinning."""


class Player:
    """A process that holds one contender, or one library's products for rooflines, and waits to be told.

    Args:
        task: What `worker` makes: ``name``, ``folder``, ``size``, ``threads``.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.peers.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.ask(task)

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and wait for the answer; one with ``error`` where the contender raised."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"its process ended with code {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait()


def take_turns(players: Mapping[str, Player], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Answers of each player to ``run``, by round, after one round that does not count.

    Raises:
        BenchmarkError: One failed after it had run before.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in players}
    for number in range(rounds + 1):
        for name, player in players.items():
            time.sleep(SETTLE)
            answer = player.ask({"do": "run"})
            if "error" in answer:
                raise BenchmarkError(f"{name}: {answer['error']}")
            if number:
                found[name].append(answer)
    return found
