"""The benchmarks of the CPU engine, run small: they hold outputs equal before they time, so here they must agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.host import embed
from naflex_deploy import load
from tests.support.bundles import write_summing_bundle

ROOT = Path(__file__).parents[2]


def run(name: str, output: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--small", "-o", str(output), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = output / f"{name}.json" if output.is_dir() else output
    report: dict[str, Any] = json.loads(written.read_text())
    return report


def test_peers(tmp_path: Path) -> None:
    only = ("naflex-deploy", "sdpa fp32, one by one", "timm fp32, one by one")
    report = run("peers", tmp_path, "--rounds", "1", "--threads", "1", "--only", *only)
    (measured,) = report["runs"]
    assert [mix["mix"] for mix in measured["mixes"]] == ["fill", "mixed", "documents", "thumbnails"]
    assert measured["rooflines"].keys() == {"sgemm", "bf16", "int8"}
    for mix in measured["mixes"]:
        rows = {row["name"]: row for row in mix["rows"]}
        assert not mix["left_out"]
        layouts = ("one by one", "packed")
        assert {f"naflex-deploy {kind}, {layout}" for kind in ("fp32", "int8") for layout in layouts} <= rows.keys()
        assert all(row["cosine"] > (0.9 if row["precision"] == "int8" else 0.99999) for row in rows.values())
    assert "naflex-deploy fp32" in (tmp_path / "peers.md").read_text()


def test_overhead(tmp_path: Path) -> None:
    """The benchmark itself holds every pack's result to that of the plain transformer."""
    arguments = ("--tokens", "36", "--images", "1", "2", "--threads", "1", "--seconds", "0.1")
    report = run("peers.overhead", tmp_path / "overhead.json", *arguments)
    assert [(row["tokens"], row["images"]) for row in report["rows"]] == [
        (36, "1"),
        (36, "2 equal"),
        (36, "2 that differ"),
    ]
    assert all(row["from"] <= row["cost"] <= row["to"] for row in report["rows"])


def test_embed(tmp_path: Path) -> None:
    engine = load(write_summing_bundle(tmp_path / "bundle"))
    figures = embed.measure(engine, embed.photos(tmp_path, 3), rounds=1)
    assert 0 < figures["ideal_loss"] < 1
    assert figures["host_ms"] > 0
