"""The GPU suite on a CPU with a tiny model: its treatment of paths that run, differ, fail or are missing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.gpu_suite import __main__ as gpu_suite
from benchmarks.gpu_suite.__main__ import COMPILED, goals, measure
from benchmarks.gpu_suite.checks import sessions
from benchmarks.gpu_suite.parity import parity
from benchmarks.gpu_suite.paths import Bound, GpuPath
from benchmarks.gpu_suite.report import render
from benchmarks.gpu_suite.run import Run
from benchmarks.gpu_suite.speed import filling, speed
from benchmarks.peers.mixes import Mix
from benchmarks.peers.work import useful_gflop
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends import cuda_device


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("suite")
    arguments = ["gpu_suite", "--device", "cpu", "--tiny", "-o", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments)
        gpu_suite.main()
    assert "Executed on" in (output / "gpu_suite.md").read_text()
    return json.loads((output / "gpu_suite.json").read_text())  # type: ignore[no-any-return]


def test_every_path_that_runs_here_computes_the_same(report: dict) -> None:  # type: ignore[type-arg]
    rows = {row["name"]: row for row in report["parity"]}
    assert {name: row["ours"] for name, row in rows.items()} == {
        "transformers SDPA, padded fp32": False,
        "torch packed, image by image fp32": False,
        "onnxruntime fp32": True,
    }
    assert all(row["passed"] and row["max_error"] < 1e-5 for row in rows.values())


def test_sessions_keep_their_promises(report: dict) -> None:  # type: ignore[type-arg]
    (row,) = report["sessions"]
    assert (row["name"], row["promise"], row["passed"]) == ("onnxruntime fp32", "4 threads at once", True)


def test_every_budget_and_mix_is_timed(report: dict) -> None:  # type: ignore[type-arg]
    keys = {(row["mix"], row["budget"], row["name"]) for row in report["speed"]}
    assert len(keys) == len(report["speed"]) == 3 * 2  # A document of 1024 tokens does not fit so small a pack.
    assert {budget for _, budget, _ in keys} == {128, 512}
    for row in report["speed"]:
        assert row["ms"] > 0
        assert row["tokens"] <= row["budget"]
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["ms"] * 1e3)
    assert set(report["rates"]) == {"bf16", "fp16", "fp32"}


def test_what_does_not_run_here_says_why(report: dict) -> None:  # type: ignore[type-arg]
    reasons = {one["what"]: one["reason"] for one in report["left_out"]}
    assert reasons["small, torch packed, varlen flash fp32"] == "flash attention over sequences needs a GPU"
    assert reasons[f"small, {COMPILED} fp32"] == "torch.compile is only compared on a GPU"
    assert "timed on a GPU" in reasons["Triton kernels"]
    assert report["executed"]["device"]
    assert report["executed"]["versions"]["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so the suite would measure it")
def test_without_a_gpu_it_says_of_every_path_why_it_did_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_suite", "-o", str(tmp_path)])
    monkeypatch.setattr(cuda_device, "find", lambda: "there is no NVIDIA driver")
    gpu_suite.main()
    report = json.loads((tmp_path / "gpu_suite.json").read_text())
    reasons = {one["what"]: one["reason"] for one in report["left_out"]}
    for model in ("siglip2-base", "siglip2-so400m"):
        assert "sees no GPU: there is no NVIDIA driver" in reasons[f"{model}, {COMPILED} bf16"]
        assert "sees no GPU" in reasons[f"{model}, torch packed, varlen flash bf16"]
        assert reasons[f"{model}, tensorrt bf16"].startswith("TensorRT is not installed")
        assert reasons[f"{model}, tensorrt-rtx fp16"] == "there is no NVIDIA driver"
        assert reasons[f"{model}, onnxruntime-cuda fp16"] == "there is no NVIDIA driver"
    assert (report["parity"], report["speed"], report["goals"], report["rates"]) == ([], [], [], {})
    table = capsys.readouterr().out
    assert table == (tmp_path / "gpu_suite.md").read_text() + "\n"
    assert table.startswith("Executed on there is no NVIDIA driver")
    assert "Nothing was measured." in table
    assert sum(line.startswith("- siglip2-so400m, ") for line in table.splitlines()) == 14


def path(results: dict[str, np.ndarray], precision: str = "fp16", fails: bool = False, ours: bool = True) -> GpuPath:
    def launch() -> None:
        if fails:
            raise RuntimeError("CUDA error: an illegal\nmemory access")

    return GpuPath(precision, ours, lambda images: Bound(launch, lambda: results))


RIGHT = {"tokens": np.eye(8, dtype=np.float32), "pooled": np.eye(2, 8, dtype=np.float32)}


def off_by(error: float) -> dict[str, np.ndarray]:
    return {name: values + np.float32(error) for name, values in RIGHT.items()}


def test_a_path_that_differs_or_fails_is_not_timed() -> None:
    run = Run("cpu", 1, 1e9)
    wrong = RIGHT | {"tokens": RIGHT["tokens"] + 0.1}
    broken = RIGHT | {"pooled": RIGHT["pooled"] * np.nan}
    paths = {"right": path(RIGHT), "wrong": path(wrong), "broken": path(broken), "fails": path(RIGHT, fails=True)}
    rows = parity(run, "small", paths, lambda images: RIGHT, [], "torch")
    assert {row["name"]: row["passed"] for row in rows} == {"right": True, "wrong": False, "broken": False}
    assert list(paths) == ["right"]
    said = {one["what"]: one["reason"] for one in run.left_out}
    assert said["small, fails"] == "CUDA error: an illegal"
    assert "of tokens 0.9" in said["small, wrong, timed"]


def test_an_engine_in_bf16_is_held_to_the_error_of_torch_in_bf16() -> None:
    run = Run("cpu", 1, 1e9)
    paths = {
        "torch": path(off_by(1e-3), "bf16", ours=False),
        "as good": path(off_by(1.1e-3), "bf16"),
        "worse": path(off_by(1.3e-3), "bf16"),
        "of fp16": path(off_by(1.3e-3), "fp16"),
    }
    rows = {row["name"]: row for row in parity(run, "small", paths, lambda images: RIGHT, [], "torch")}
    assert rows["as good"]["times_torch"] == pytest.approx(1.1, rel=1e-3)
    assert (rows["torch"]["times_torch"], rows["of fp16"]["times_torch"]) == (None, None)
    assert list(paths) == ["torch", "as good", "of fp16"]
    (left,) = run.left_out
    assert left == {"what": "small, worse, timed", "reason": "its error is 1.30 times that of torch in bf16"}
    # All values are off by 0.001; among 8 x 8 values with 8 ones, the relative RMS error is sqrt(64 / 8) times that.
    assert rows["torch"]["rms_error"] == pytest.approx(1e-3 * 8**0.5, rel=1e-3)
    assert rows["torch"]["max_error"] == pytest.approx(1e-3, rel=1e-3)


class Doubling:
    """Doubles pixels; leaves results on a device that is this machine."""

    def run(self, pack: Pack, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        return dict.fromkeys(outputs, 2.0 * pack.patches)

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        return self.run(pack, outputs)


class OneBuffer(Doubling):
    """Hands out memory that the next run writes to, as a session must not."""

    def __init__(self) -> None:
        self.buffer = np.zeros((16, 3))

    def run(self, pack: Pack, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        self.buffer[: pack.tokens] = 2.0 * pack.patches
        time.sleep(1e-3)
        return dict.fromkeys(outputs, self.buffer[: pack.tokens])


@pytest.mark.parametrize(("session", "passed"), [(Doubling(), True), (OneBuffer(), False)])
def test_a_session_that_shares_memory_between_runs_is_seen(session: Doubling, passed: bool) -> None:
    packs = [Pack.of(Mix("", "", ((2, 4),)).images(3, seed)) for seed in range(2)]
    one = GpuPath("fp16", True, lambda images: Bound(list, dict), session=session)
    rows = sessions(Run("cpu", 1, 1e9), "small", {"one": one}, packs)
    assert [row["promise"] for row in rows] == ["4 threads at once", "DLPack outputs, kept while others run"]
    assert [row["passed"] for row in rows] == [passed, passed]


def test_nothing_is_begun_when_time_is_up() -> None:
    run = Run("cpu", 1, -1.0)
    shape = {"width": 8, "mlp_width": 8, "depth": 1, "patch_values": 3}
    assert speed(run, "small", {"one": path({})}, Mix("mixed", "", ((2, 2),)), 8, shape) == []
    assert run.left_out[0]["what"] == "small, mixed, 8 tokens, one"
    assert "out of time" in run.left_out[0]["reason"]
    assert measure(Run("cpu", 1, -1.0), ["small"], [8], [""])["speed"] == []


def test_packs_are_filled_and_never_above_their_budget() -> None:
    mix = Mix("", "", ((2, 3), (1, 4)))
    assert filling(mix, 20).grids == ((2, 3), (1, 4), (2, 3), (1, 4))
    assert filling(mix, 15).grids == ((2, 3), (1, 4))
    assert filling(mix, 5).grids == ()


def test_goals_compare_the_best_of_ours_with_what_was_measured() -> None:
    def row(name: str, ms: float, tflops: float, ours: bool, precision: str = "bf16") -> dict[str, object]:
        same = {"model": "m", "mix": "mixed", "budget": 16, "images": 2, "tokens": 16, "padding": 0.5, "spread": 0.0}
        return same | {
            "name": name,
            "ms": ms,
            "tflops": tflops,
            "ours": ours,
            "precision": precision,
            "tokens_per_second": 1.0,
        }

    rows = [
        row(f"{COMPILED} bf16", 30.0, 200.0, False),
        row("a", 15.0, 400.0, True),
        row("b", 20.0, 300.0, True),
        row("c", 1.0, 999.0, True, "fp32"),
    ]
    rates = {"bf16": 800.0}
    found = goals({"models": {"m": {}}, "speed": rows, "rates": rates})
    assert [(one["goal"], one["found"], one["by"]) for one in found] == [(0.6, 0.5, "a, mixed"), (1.5, 2.0, "a")]
    kept = {"model": "m", "name": "a", "promise": "4 threads at once", "max_error": 0.0, "passed": True}
    executed = {"device": "Test GPU", "cpu": "c", "system": "s", "date": "d", "versions": {}}
    kernel = {"kernel": "attention", "model": "m", "mix": "mixed", "name": "ours", "ms": 1.0, "error": 1e-3}
    whole = SimpleNamespace(
        executed=executed,
        rates=rates,
        goals=found,
        parity=[],
        sessions=[kept, kept | {"passed": False, "max_error": 0.5}],
        engines=[{"model": "m", "name": "a", "attention": {"FLASH_ATTENTION": 2}, "placement": {}}],
        speed=rows,
        kernels=[kernel | {"tflops": 2.0, "reason": ""}, kernel | {"tflops": None, "reason": "no Triton"}],
        left_out=[],
        seconds=1.0,
    )
    table = render(vars(whole))
    assert table.startswith("Executed on Test GPU")
    for line in (
        "goal 0.6: missed",
        "goal 1.5: reached",
        "| **a** | 15.00 |",
        "| 50% |",
        "- m, a, 4 threads at once: kept, off by 0.0e+00",
        "- m, a, 4 threads at once: broken, off by 5.0e-01",
        "FLASH_ATTENTION 2",
        "no Triton",
    ):
        assert line in table


def test_useful_work_grows_with_the_square_of_an_image() -> None:
    shape = {"width": 10, "mlp_width": 20, "depth": 3, "patch_values": 7}
    by_hand = 2 * (7 * 10 + 3 * (4 * 100 + 2 * 10 * 20)) * 8 + 2 * (2 * 100 + 400) * 2 + 4 * 10 * 3 * (9 + 25)
    assert useful_gflop(shape, [3, 5]) == pytest.approx(by_hand / 1e9)
    tower = by_hand - 2 * (2 * 100 + 400) * 2 + 2 * 11 * 8
    assert useful_gflop(shape | {"projector": 11}, [3, 5]) == pytest.approx(tower / 1e9)
