"""Attack a server with a fake engine on one core from the other, and ask meanwhile for its health and for answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.attack import senders
from benchmarks.serving.fake_server import memory, server

ATTACKS: dict[str, Callable[..., senders.Seen]] = {
    "none": lambda port, seconds, seed: time.sleep(seconds) or senders.Seen(),
    "json": senders.hostile_json,
    "shapes": senders.hostile_shapes,
    "frames": senders.many_frames,
    "slow": senders.slow_senders,
    "flood": senders.flood,
    "closing": senders.closing_senders,
    "reloads": senders.reloads,
}
RESETS = ("ConnectionResetError", "BrokenPipeError", "RemoteDisconnected")


@dataclass(frozen=True)
class Found:
    """What a server did under an attack.

    Attributes:
        seen: Answers that the attackers got.
        probe: See `benchmarks.attack.probe`.
        peak: Largest memory of the server in MB.
        descriptors: Open descriptors before and after.
    """

    seen: senders.Seen
    probe: dict[str, float]
    peak: float
    descriptors: tuple[int, int]

    @property
    def resets(self) -> int:
        return sum(self.seen[name] for name in RESETS)

    @property
    def failures(self) -> list[str]:
        """What must not happen, whatever the machine: how fast it is, is said in figures."""
        failures = []
        if self.probe["good_failed"]:
            failures.append(f"{self.probe['good_failed']:.0f} of {self.probe['good']:.0f} good requests unanswered")
        if self.resets:
            failures.append(f"{self.resets} resets")
        if self.seen["500"]:
            failures.append(f"{self.seen['500']} internal errors")
        if self.peak > 1000:
            failures.append(f"{self.peak:.0f} MB of memory")
        return failures


def attack(name: str, seconds: float, seed: int) -> Found:
    """Run one attack on a server of its own."""
    others = sorted(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(others[0])] if len(others) > 1 and shutil.which("taskset") else []
    command = [*pinned, sys.executable, "-m", "benchmarks.serving.fake_server", "64", "0.02", "2"]
    with server(*command) as (port, pid):
        os.sched_setaffinity(0, others[1:] or others)
        try:
            before = len(os.listdir(f"/proc/{pid}/fd"))
            asking = [sys.executable, "-m", "benchmarks.attack.probe", str(port), str(seconds)]
            send = partial(ATTACKS[name], pid=pid) if name == "reloads" else ATTACKS[name]
            with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as prober:
                seen = send(port, seconds, seed)
                content, _ = prober.communicate(timeout=seconds + 60)
            peak = max(_peak(pid), memory(pid))
            time.sleep(0.5)
            after = len(os.listdir(f"/proc/{pid}/fd"))
        finally:
            os.sched_setaffinity(0, others)
    return Found(seen, json.loads(content), peak, (before, after))


def _peak(pid: int) -> float:
    """Largest resident memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
