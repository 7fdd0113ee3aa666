"""Kills before system calls that write: afterwards all is there or nothing, and the next run leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.commands import VARIANT, built, drawn, left, run
from benchmarks.reliability.tracing import killed_before, points, record

IMAGES = 24
SUM = hashlib.sha256


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder.

    Attributes:
        arguments: Of the command line.
        prepare: Makes what has to be in the folder before.
        again: Added to the arguments when it is run once more after a kill.
        replaces: Name of a bundle in the folder that must never be absent or half written.
    """

    arguments: list[object]
    prepare: Callable[[], None] = lambda: None
    again: tuple[str, ...] = ()
    replaces: str = ""


def commands(folder: Path, place: Path) -> dict[str, Command]:
    """Every command that writes. What they write lies in ``place``."""
    bundle, images = built(folder), drawn(folder / "images", 60)[:IMAGES]
    key = folder / "key.pem"
    if not key.exists():
        command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)]
        subprocess.run(command, check=True, capture_output=True)
    copy = place / "bundle"

    def copied() -> None:
        shutil.copytree(bundle, copy)

    def embed(suffix: str, *more: object) -> Command:
        return Command(["embed", bundle, *images, "-o", place / f"out.{suffix}", *more], again=("--resume",))

    build = ["build", "--profile", "photo", "--model", "demo", "--backend", "onnxruntime"]
    small = ["--set", "image.tokens=64", "--set", "outputs=['pooled', 'tokens']"]
    calibrate = ["calibrate", "--profile", "photo", "--model", "demo", "--set", "image.tokens=64", "--samples", "16"]
    return {
        "embed npz": embed("npz"),
        "embed jsonl": embed("jsonl"),
        "embed parquet": embed("parquet"),
        "embed --tokens": embed("npz", "--tokens", place / "tokens"),
        "embed --preview": embed("npz", "--preview", place / "previews"),
        "strip": Command(["bundle", "strip", bundle, "--variant", VARIANT, "-o", place / "edge", "--force"]),
        "strip --force": Command(
            ["bundle", "strip", bundle, "--variant", VARIANT, "-o", copy, "--force"], copied, replaces="bundle"
        ),
        "sign": Command(["bundle", "sign", copy, "--key", key], copied, replaces="bundle"),
        "verify": Command(["verify", copy], copied, replaces="bundle"),
        "triton-server-repo": Command(["triton-server-repo", bundle, "-o", place / "models", "--force"]),
        "build": Command([*build, *small, "-o", place / "new", "--force"]),
        "build --into": Command([*build, *small, "--into", copy], copied, replaces="bundle"),
        "rebuild": Command(["bundle", "rebuild", copy], copied, replaces="bundle"),
        "calibrate": Command(
            [*calibrate, "--images", folder / "images", "-o", place / "calibration.json"], again=("--resume",)
        ),
    }


def measure(folder: Path, kills: int, only: list[str], seed: int = 0) -> dict[str, Any]:
    """Kill each command at points spread over all that it has; the shares of the commands follow their points."""
    place = folder / "kills"
    chosen = {name: one for name, one in commands(folder, place).items() if not only or name in only}
    rng = random.Random(seed)
    found: dict[str, list[tuple[str, int]]] = {}
    whole: dict[str, list[str]] = {}
    faults: list[str] = []
    counts: dict[str, Counter[str]] = {}
    for name, command in chosen.items():
        _begin(place, command)
        file = folder / "trace"
        ended = record(command.arguments, file)
        if ended.code:
            faults.append(f"{name}: undisturbed, exit {ended.code}: {ended.said[-300:]}")
        found[name], whole[name] = points(file, place), left(place)
    for name, command in chosen.items():
        share = round(kills / len(chosen))
        every = sorted(found[name])
        picked = every if len(every) <= share else rng.sample(every, share)
        counts[name] = Counter(points=len(every))
        for call, number in picked:
            _begin(place, command)
            ended = killed_before(command.arguments, call, number)
            counts[name]["killed" if ended.code == -9 else "ended before"] += 1
            where = f"{name}, {call} {number}"
            if command.replaces and (fault := _damage(place / command.replaces)):
                faults.append(f"{where}: {fault}")
            output = next((one for one in command.arguments if isinstance(one, Path) and one.suffix == ".npz"), None)
            if output is not None and output.exists() and run("embed", *command.arguments[1:], "--resume").code:
                faults.append(f"{where}: an output that is there is not whole")
            again = run(*command.arguments, *command.again)
            if again.code:
                faults.append(f"{where}: the next run ended with {again.code}: {again.said[-300:]}")
            if _names(left(place)) != _names(whole[name]):
                faults.append(f"{where}: left {sorted(set(left(place)) ^ set(whole[name]))}")
    return {"kills": sum(one["killed"] for one in counts.values()), "commands": counts, "faults": faults}


def _begin(place: Path, command: Command) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    command.prepare()


def _damage(bundle: Path) -> str:
    """Why a bundle is not whole; empty where it is."""
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
        for name, entry in manifest["files"].items():
            if SUM((bundle / name).read_bytes()).hexdigest() != entry["sha256"]:
                return f"{name} is not what the manifest says"
    except (OSError, ValueError) as error:
        return f"the bundle is absent or half written: {error}"
    return ""


def _names(paths: list[str]) -> list[str]:
    """Names without what differs from run to run: the reports of a verification."""
    return [path for path in paths if "reports" not in path]
