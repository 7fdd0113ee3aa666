"""A small sample of every measure of reliability; the whole runs from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability.tracing import whole
from tests.support.tiny import bundle

__all__ = ["bundle"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sample(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In one process of its own, whose children are the runs."""
    folder = tmp_path_factory.mktemp("reliability")
    shutil.copytree(bundle, folder / "bundle")
    command = [sys.executable, "-m", "benchmarks.reliability", "sample", "--trials", "1", "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("measure", "counted"),
    [
        ("concurrent", lambda found: (found["vectors"], found.get("wrong", 0)) == (60, 0)),
        ("kills", lambda found: found["kills"] == 1),
        ("power", lambda found: found["cuts"] >= 2),
        ("disks", lambda found: found["commands"]["strip"]["refused"] >= 1),
    ],
)
def test_a_sample_of_every_measure_finds_nothing(
    sample: dict[str, Any], measure: str, counted: Callable[[dict[str, Any]], bool]
) -> None:
    found = sample[measure]
    if "left out" in found:
        pytest.skip(found["left out"])
    assert found["faults"] == []
    assert counted(found), found


def test_a_call_that_strace_wrote_in_two_is_whole_again() -> None:
    lines = [
        '7 rename("/a", "/b" <unfinished ...>',
        "9 <... fsync resumed>) = 0",
        '8 write(3, "x", 1) = 1',
        "7 <... rename resumed>)              = 0",
        "8 fsync(3 <unfinished ...>",
        "8 +++ exited with 0 +++",
    ]
    assert list(whole(lines)) == [
        '8 write(3, "x", 1) = 1',
        '7 rename("/a", "/b")              = 0',
        "8 +++ exited with 0 +++",
    ]
