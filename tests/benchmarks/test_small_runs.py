"""Small runs of the CPU benchmarks, which compare outputs before they time, so that contenders must agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino", reason="OpenVINO is an extra")

from benchmarks.host import embed
from benchmarks.peers import __main__ as peers
from benchmarks.peers import overhead
from benchmarks.peers.report import ratio
from naflex_deploy import load
from naflex_deploy.core.errors import BenchmarkError
from tests.support.bundles import write_summing_bundle

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call a benchmark's main function with these arguments, and read what it wrote."""

    def call(main: Callable[[], None], output: Path, written: Path, *arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["benchmark", "--small", "-o", str(output), *arguments])
        main()
        report: dict[str, Any] = json.loads(written.read_text())
        return report

    return call


def test_peers(run: Run, tmp_path: Path) -> None:
    mix = ("--mix", "thumbnails")
    only = ("eager", "bf16 in openvino, packed")
    report = run(
        peers.main, tmp_path, tmp_path / "peers.json", "--rounds", "1", "--threads", "1", *mix, "--only", *only
    )
    (measured,) = report["runs"]
    assert [mix["mix"] for mix in measured["mixes"]] == ["thumbnails"]
    assert measured["rooflines"].keys() == {"sgemm", "bf16", "int8"}
    for mix in measured["mixes"]:
        rows = {row["name"]: row for row in mix["rows"]}
        assert not mix["left_out"]
        assert len(rows) == 2
        assert all(row["cosine"] > 0.999 for row in rows.values())
        assert all(len(row["seconds"]) == 1 and row["share"] > 0 for row in rows.values())
    assert "**naflex-deploy bf16 in openvino, packed**" in (tmp_path / "peers.md").read_text()


@pytest.mark.exhaustive
def test_peers_of_a_tower(run: Run, tmp_path: Path) -> None:
    """The class of transformers image by image and in one sequence, and packs of ours."""
    only = ("sdpa", "fp32 in onnxruntime, packed", "bf16 in openvino, packed")
    options = ("--model", "qwen3-vl-4b", "--rounds", "1", "--threads", "1", "--mix", "mixed", "--only", *only)
    report = run(peers.main, tmp_path, tmp_path / "peers.json", *options)
    (mix,) = report["runs"][0]["mixes"]
    assert not mix["left_out"]
    assert {row["name"] for row in mix["rows"] if row["ours"]} == {
        "naflex-deploy fp32 in onnxruntime, packed",
        "naflex-deploy bf16 in openvino, packed",
    }
    assert len(mix["rows"]) == 6


def test_no_contender_outruns_the_products_it_is_made_of() -> None:
    row = {"name": "fast", "share": 1.01}
    report = {"runs": [{"mixes": [{"mix": "mixed", "rows": [{"name": "slow", "share": 1.0}, row]}]}]}
    with pytest.raises(BenchmarkError, match="fast on mixed reaches 101%"):
        peers.refuse_impossible(report)


def test_ratios_have_intervals_from_their_pairs() -> None:
    """Both slow down by half in three rounds, which no ratio sees."""
    slow = {"seconds": [2.0, 2.0, 3.0, 3.0, 3.0, 2.0]}
    fast = {"seconds": [1.0, 1.0, 1.5, 1.5, 1.5, 1.0]}
    assert ratio(slow, fast) == "2.00 (2.00–2.00)"
    few = [{"seconds": one["seconds"][:3]} for one in (slow, fast)]
    assert ratio(*few) == "2.00"


def test_overhead(run: Run, tmp_path: Path) -> None:
    """The benchmark itself compares every pack's result with that of the plain transformer."""
    arguments = ("--tokens", "36", "--images", "1", "2", "--threads", "1", "--seconds", "0.1")
    report = run(overhead.main, tmp_path / "overhead.json", tmp_path / "overhead.json", *arguments)
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
    assert figures["host_ms"] > figures["scaled_host_ms"] > 0
    assert figures["scaled_least_cosine"] > 0.99
