"""Requests with faults of every kind; see `benchmarks/serving/faults.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_accepted_request_is_answered_once_with_its_own_result():
    command = [sys.executable, "-m", "benchmarks.serving.faults", "--requests", "1000", "--tick", "0.05"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 problems" in found.stdout
    killed, reloaded = map(int, re.findall(r"engine (?:killed|reloaded): (\d+)", found.stdout))
    assert killed
    assert reloaded
