"""Runs that overlap, are repeated too early, are killed, or take different inputs, all into one output."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reliability.commands import Ended, Run, built, drawn, left, run, truth, wrong

IMAGES = 60

Trial = Callable[[Path, Path, list[Path], random.Random], list[Ended]]


def two_at_once(bundle: Path, output: Path, images: list[Path], rng: random.Random) -> list[Ended]:
    flags = rng.choice(([], ["--resume"]))
    runs = [Run("embed", bundle, *images, "-o", output, *flags) for _ in range(2)]
    return [one.wait() for one in runs]


def late_retry(bundle: Path, output: Path, images: list[Path], rng: random.Random) -> list[Ended]:
    first = Run("embed", bundle, *images, "-o", output, "--resume")
    time.sleep(rng.uniform(0, 1.5))
    second = Run("embed", bundle, *images, "-o", output, "--resume", *rng.choice(([], ["--wait"])))
    return [first.wait(), second.wait()]


def halves(bundle: Path, output: Path, images: list[Path], rng: random.Random) -> list[Ended]:
    first = Run("embed", bundle, *images[:40], "-o", output, "--resume")
    time.sleep(rng.uniform(0, 0.5))
    second = Run("embed", bundle, *images[20:], "-o", output, "--resume")
    return [first.wait(), second.wait()]


def killed_in_between(bundle: Path, output: Path, images: list[Path], rng: random.Random) -> list[Ended]:
    first = Run("embed", bundle, *images, "-o", output, "--resume")
    time.sleep(rng.uniform(0.1, 1.5))
    first.kill()
    second = Run("embed", bundle, *images, "-o", output, "--resume")
    time.sleep(rng.uniform(0, 1))
    third = Run("embed", bundle, *images, "-o", output, "--resume")
    if rng.random() < 0.5:
        second.kill()
    return [first.wait(), second.wait(), third.wait()]


def containers(bundle: Path, output: Path, images: list[Path], rng: random.Random) -> list[Ended]:
    first = Run("embed", bundle, *images, "-o", output, container=True)
    time.sleep(rng.uniform(0, 0.5))
    second = Run("embed", bundle, *images, "-o", output, "--resume", *rng.choice(([], ["--wait"])), container=True)
    return [first.wait(), second.wait()]


TRIALS: dict[str, Trial] = {
    "two at once": two_at_once,
    "late retry": late_retry,
    "halves": halves,
    "killed in between": killed_in_between,
    "two process namespaces": containers,
}


def measure(folder: Path, trials: int, seed: int = 0) -> dict[str, Any]:
    """Repeat the kinds of trials by turns, and compare every vector that was written with the right one."""
    bundle, images = built(folder), drawn(folder / "images", IMAGES)
    expected = truth(bundle, images)
    place = folder / "concurrent"
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(trials):
        name = list(TRIALS)[number % len(TRIALS)]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        output = place / "out.npz"
        ended = TRIALS[name](bundle, output, images, rng)
        for one in ended:
            kind = {0: "done", -9: "killed"}.get(one.code, "refused" if one.refused else "other")
            counts[kind] += 1
            if kind == "other":
                faults.append(f"{name}: exit {one.code}: {one.said[-300:]}")
        last = run("embed", bundle, *images, "-o", output, "--resume")
        if name == "halves" and last.code == 2 and "made with something else: inputs" in last.said:
            counts["refused"] += 1
            found = wrong(output, expected)
            if found[0] not in (40, 60):
                faults.append(f"{name}: {found[0]} rows")
        else:
            found = wrong(output, expected)
            if last.code or found[0] != IMAGES:
                faults.append(f"{name}: the last run left {found[0]} rows and said {last.said[-300:]}")
        counts["vectors"] += found[0]
        counts["wrong"] += found[1]
        if left(place) != ["out.npz"]:
            faults.append(f"{name}: left {left(place)}")
    return {
        "trials": trials,
        **counts,
        "faults": faults,
        "threshold": "1e-3 of the largest value",
        "numpy": np.__version__,
    }
