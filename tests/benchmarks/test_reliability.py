"""A small sample of every measure of reliability; the whole runs from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.tiny import bundle

__all__ = ["bundle"]

ROOT = Path(__file__).parents[2]


def test_a_sample(bundle: Path, tmp_path: Path) -> None:
    """In one process of its own, whose children are the runs: what needs strace or root is left out without them."""
    shutil.copytree(bundle, tmp_path / "bundle")
    command = [sys.executable, "-m", "benchmarks.reliability", "sample", "--trials", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: part["faults"] for name, part in found.items()} == {name: [] for name in found}
    assert (found["concurrent"]["vectors"], found["concurrent"].get("wrong", 0)) == (60, 0)
    if "kills" in found:
        assert (found["kills"]["kills"], found["power"]["cuts"] >= 2) == (1, True)
    if "disks" in found:
        assert found["disks"]["commands"]["strip"]["refused"] >= 1
