"""Attack a server with a fake engine on one core from the other, and ask meanwhile for its health and for answers."""

from __future__ import annotations

import asyncio
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
from typing import Any

from benchmarks.attack import odd_senders, senders
from benchmarks.attack.result import Result
from benchmarks.serving.fake_server import memory, raw_request, server
from benchmarks.serving.load import closed_loop


@dataclass(frozen=True)
class Attack:
    """What a server is sent, and its name in tables."""

    title: str
    send: Callable[..., senders.Seen]


ATTACKS: dict[str, Attack] = {
    "none": Attack("none", lambda port, seconds, seed: time.sleep(seconds) or senders.Seen()),
    "json": Attack("32 MiB of JSON made to be expensive, 4 connections", senders.hostile_json),
    "shapes": Attack("shapes of huge or many dimensions, 4 connections", senders.hostile_shapes),
    "frames": Attack("files of many pages, slow formats, 8 connections", senders.many_frames),
    "slow": Attack("64 slow senders of 32 MiB each", senders.slow_senders),
    "flood": Attack("five times the engine's capacity", senders.flood),
    "closing": Attack("the same, and 16 senders of 1 MiB with `Connection: close`", senders.closing_senders),
    "reloads": Attack("20 reloads a second", senders.reloads),
    "pipelines": Attack("12,000 requests at once, 8 connections", odd_senders.pipelines),
    "trailers": Attack("trailers and chunks without end, 8 connections", odd_senders.trailers),
    "unread": Attack("answers that nobody reads, 64 connections", odd_senders.unread),
    "leaving": Attack("lists whose clients leave in the middle, 8 connections", odd_senders.leaving),
    "lists": Attack("10,000 inputs, 5,000 pages, texts of 1 MB, headers of 8 kB, 8 connections", odd_senders.lists),
}
CALIBRATION = 4.0
"""Seconds in which the capacity of a bundle's engine is measured."""

RESETS = ("ConnectionResetError", "BrokenPipeError", "RemoteDisconnected")


def _failures(seen: senders.Seen, probe: dict[str, Any], peak: float) -> list[str]:
    """What must not happen, whatever the machine: how fast it is, is said in figures."""
    failures = []
    if probe["unanswered"]:
        failures.append(f"{probe['unanswered']} of {len(probe['good'])} good requests unanswered")
    if resets := sum(seen[name] for name in RESETS):
        failures.append(f"{resets} resets")
    if seen["500"]:
        failures.append(f"{seen['500']} internal errors")
    if peak > 1000:
        failures.append(f"{peak:.0f} MB of memory")
    return failures


def attack(name: str, seconds: float, seed: int, bundle: Path | None = None) -> Result:
    """Run one attack on a server of its own, with an engine that sleeps or that of a bundle."""
    others = sorted(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(others[0])] if len(others) > 1 and shutil.which("taskset") else []
    command = [*pinned, sys.executable, "-m", "benchmarks.serving.fake_server", "64", "0.02", "2"]
    if bundle is not None:
        command = [*pinned, sys.executable, "-m", "naflex_deploy", "serve", f"fake={bundle}", "--port", "0"]
        command += ["--notice", "0", "--slo", "2000"]
    with server(*command) as (port, pid):
        os.sched_setaffinity(0, others[1:] or others)
        try:
            capacity = {}
            if bundle is not None and name in ("flood", "closing"):
                done = asyncio.run(closed_loop(port, [raw_request(64)], 16, CALIBRATION))
                capacity = {"capacity": done.statuses[200] / CALIBRATION}
            asking = [sys.executable, "-m", "benchmarks.attack.probe", str(port), str(seconds)]
            send = partial(ATTACKS[name].send, **({"pid": pid} if name == "reloads" else capacity))
            with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as prober:
                seen = send(port, seconds, seed)
                content, _ = prober.communicate(timeout=seconds + 60)
            peak = max(_peak(pid), memory(pid))
        finally:
            os.sched_setaffinity(0, others)
    probe = json.loads(content)
    part = name if bundle is None else f"{name}, with an engine"
    return Result(part, seed, {"answers": dict(seen)}, _failures(seen, probe, peak), **probe, peak=peak)


def _peak(pid: int) -> float:
    """Largest resident memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
