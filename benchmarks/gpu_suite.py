"""Everything that runs a NaFlex model on the GPU at hand, held to one reference and timed beside each other.

    python -m benchmarks.gpu_suite [--models siglip2-base siglip2-so400m] [--budgets 1024 4096 16384] [-o DIR]
    python -m benchmarks.gpu_suite --device cpu --tiny      a test of the suite itself

First results are compared, then packs of each budget are timed, contenders taking turns, inputs and outputs in GPU
memory. Last come the Triton kernels alone. What cannot run here, or is left out as time runs out, is listed with the
reason; without a GPU that is all there is. Weights are random, of the true shapes. Writes gpu_suite.json and
gpu_suite.md; every figure says what it was executed on.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support import contenders, gpu_kernels
from benchmarks.support.gpu_paths import (
    OUTPUTS,
    Bound,
    GpuPath,
    engine_path,
    packed_path,
    reference,
    transformers_path,
)
from benchmarks.support.gpu_report import render
from benchmarks.support.mixes import Mix, mixes
from benchmarks.support.ort_probe import probe
from benchmarks.support.timing import interleaved
from benchmarks.support.work import useful_gflop
from naflex_deploy.build import checkpoints
from naflex_deploy.build.export import export
from naflex_deploy.build.lower import LOWERINGS
from naflex_deploy.core.config import resolve
from naflex_deploy.core.machine import cpu_name, system_name
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.figures import cosine
from naflex_deploy.runtime.sessions import cuda_device

GATES = {"fp32": (0.99999, 0.99999), "fp16": (0.9999, 0.9995), "bf16": (0.9999, 0.9995)}
"""Least cosine of a pooled vector, of a token."""

PADDED = "transformers SDPA, padded"
COMPILED = "transformers SDPA, padded, compiled"
GPU_ENGINES = {
    "onnxruntime-cuda": ("fp16", "bf16", "fp32"),
    "tensorrt": ("fp16", "bf16"),
    "tensorrt-rtx": ("fp16", "bf16"),
}
CPU_ENGINES = {"onnxruntime": ("fp32",)}
NO_CUDNN = {"sdpa_kernel": str(1 | 2 | 16)}
"""Attention of ONNX Runtime by flash or memory-efficient kernels, or by products: the bits that it gives them."""

SPEED_MIXES = ("mixed", "documents")
COMPILED_MIX = "mixed"
"""The one on which compiled contenders are timed: each shape of a batch is compiled anew."""

SQUARE = {"cuda": 8192, "cpu": 256}


@dataclass
class Run:
    """One run of the suite.

    Attributes:
        left_out: What did not run, and why.
    """

    device: str
    rounds: int
    limit: float
    started: float = field(default_factory=time.monotonic)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def late(self, what: str) -> bool:
        """Whether there is no time for it, which is then noted."""
        if time.monotonic() - self.started < self.limit:
            return False
        self.leave_out(what, f"out of time: {self.limit:.0f} s were given")
        return True

    def leave_out(self, what: str, reason: object) -> None:
        line = (str(reason).splitlines() or [type(reason).__name__])[0][:300]
        self.left_out.append({"what": what, "reason": line})
        self.say(f"not run: {what}: {line}")

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.started:5.0f} s] {line}", file=sys.stderr, flush=True)

    def synchronized(self, bound: Bound) -> Callable[[], None]:
        def call() -> None:
            bound.launch()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--models", nargs="+", choices=list(contenders.SIZES), default=["siglip2-base", "siglip2-so400m"]
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=440, help="after which nothing new is begun")
    parser.add_argument("--tiny", action="store_true", help="a narrow model and small packs: a test of the suite")
    parser.add_argument("--only", nargs="+", help="contenders whose name contains one of these")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-suite"))
    options = parser.parse_args()
    if options.tiny:
        options.models, options.budgets, options.rounds = ["small"], [128, 512], 1
    run = Run(options.device, options.rounds, options.seconds)
    if options.device == "cuda" and not torch.cuda.is_available():
        report = leave_all_out(run, options.models, options.only or [""])
    else:
        report = measure(run, options.models, sorted(options.budgets), options.only or [""])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu_suite.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    table = render(report)
    (options.output / "gpu_suite.md").write_text(table, encoding="utf-8")
    print(table)


def measure(run: Run, models: Sequence[str], budgets: Sequence[int], only: Sequence[str]) -> dict[str, Any]:
    """Run the suite.

    Args:
        models: Of `contenders.SIZES`.
        budgets: Tokens of the packs timed, ascending.
        only: Contenders whose name contains one of these.
    """
    report = _nothing_yet(run)
    report["rates"] = rates(run)
    for model in models:
        if run.late(model):
            continue
        run.say(f"{model}: making it")
        with tempfile.TemporaryDirectory(prefix="naflex-gpu-") as folder:
            found = _model(run, model, budgets, only, Path(folder))
        report["models"][model] = found.pop("shape")
        for key, rows in found.items():
            report[key] += [{"model": model, **row} for row in rows]
    if run.device == "cuda":
        report["kernels"] = _kernels(run, [model for model in models if model in gpu_kernels.HEADS], budgets[-1])
    else:
        run.leave_out("Triton kernels", "they are timed on a GPU; tests/plugins checks their numbers on a CPU")
    report["goals"] = goals(report)
    return _closed(run, report)


def leave_all_out(run: Run, models: Sequence[str], only: Sequence[str]) -> dict[str, Any]:
    """The report of a machine without a GPU: why each path does not run, and no figures."""
    report = _nothing_yet(run)
    reason = f"torch {torch.__version__} sees no GPU: {cuda_device.find()}"
    for model in models:
        for name in _makers(run.device, None, None, Path(), None):
            if any(part in name for part in only):
                lowering = LOWERINGS.get(name.partition(" ")[0])
                missing = (lowering.unavailable() or lowering.cannot_run()) if lowering else None
                run.leave_out(f"{model}, {name}", missing or reason)
    run.leave_out("Triton kernels", f"{reason}; tests/plugins checks their numbers on a CPU")
    return _closed(run, report)


def _nothing_yet(run: Run) -> dict[str, Any]:
    head = {"schema": 1, "executed": executed(run.device), "command": " ".join(sys.argv)}
    return head | {"rates": {}, "models": {}, "parity": [], "engines": [], "speed": [], "kernels": [], "goals": []}


def _closed(run: Run, report: dict[str, Any]) -> dict[str, Any]:
    return report | {"left_out": run.left_out, "seconds": round(time.monotonic() - run.started, 1)}


def _model(run: Run, model: str, budgets: Sequence[int], only: Sequence[str], folder: Path) -> dict[str, Any]:
    source = contenders.model(model)
    checkpoint = checkpoints.read(source)
    a = checkpoint.architecture
    shape = {"width": a.width, "mlp_width": a.mlp_width, "depth": a.depth, "patch_values": a.patch_values}
    portable = folder / "portable.onnx"
    export(checkpoint.model(OUTPUTS), portable)
    run.say(f"{model}: exported")
    longest = min(1024, budgets[0])
    settings = (f"packing.budgets={list(budgets)}", f"image.tokens={longest}", "packing.max_images=512")
    profile = resolve("doc-ocr", settings=settings, environment={}).profile
    makers = _makers(run.device, source, checkpoint, portable, profile)
    paths: dict[str, GpuPath] = {}
    for name, make in makers.items():
        if not any(part in name for part in only) or run.late(f"{model}, {name}"):
            continue
        try:
            paths[name] = make()
        except Exception as error:  # any library, any reason: it goes into the table
            run.leave_out(f"{model}, {name}", error)
    chosen = [mix for mix in mixes() if mix.name in SPEED_MIXES]
    parity = _parity(run, model, paths, partial(reference, checkpoint, run.device), chosen, budgets[0], a.patch_values)
    engines = [
        {"name": name, **probe(path.variant[1], path.variant[0])}
        for name, path in paths.items()
        if path.variant and path.variant[0].backend == "onnxruntime-cuda"
    ]
    speed = []
    for mix in chosen:
        for budget in budgets:
            grids = filling(mix, budget)
            if grids and not run.late(f"{model}, {mix.name}, {budget} tokens"):
                speed += _speed(run, model, paths, mix, budget, Mix(mix.name, mix.about, grids), shape)
    gc.collect()
    torch.cuda.empty_cache()
    return {"shape": shape, "parity": parity, "engines": engines, "speed": speed}


def _makers(
    device: str, source: Any, checkpoint: Any, portable: Path, profile: Any
) -> dict[str, Callable[[], GpuPath]]:
    low = "bf16" if device == "cuda" else "fp32"
    hf, torch_packed = partial(transformers_path, source, device), partial(packed_path, checkpoint, device)
    makers: dict[str, Callable[[], GpuPath]] = {
        f"{PADDED} {low}": partial(hf, low),
        f"{COMPILED} {low}": partial(hf, low, compiled=True),
        f"torch packed, varlen flash {low}": partial(torch_packed, low),
        f"torch packed, varlen flash, compiled {low}": partial(torch_packed, low, compiled=True),
        f"torch packed, our Triton kernel {low}": partial(torch_packed, low, "triton"),
        f"torch packed, image by image {low}": partial(torch_packed, low, "ragged"),
    }
    for backend, precisions in (GPU_ENGINES if device == "cuda" else CPU_ENGINES).items():
        for precision in precisions:
            makers[f"{backend} {precision}"] = partial(engine_path, backend, precision, portable, profile)
    if device == "cuda":
        backend = "onnxruntime-cuda"
        makers[f"{backend} bf16, no cuDNN"] = partial(engine_path, backend, "bf16", portable, profile, NO_CUDNN)
    return makers


def filling(mix: Mix, budget: int) -> tuple[tuple[int, int], ...]:
    """Images of a mix, over and over, as long as they fit."""
    grids: list[tuple[int, int]] = []
    room = budget
    while room >= (rows_columns := mix.grids[len(grids) % len(mix.grids)])[0] * rows_columns[1]:
        grids.append(rows_columns)
        room -= rows_columns[0] * rows_columns[1]
    return tuple(grids)


def _parity(
    run: Run,
    model: str,
    paths: dict[str, GpuPath],
    expect: Callable[[list[Patches]], dict[str, Any]],
    chosen: Sequence[Mix],
    budget: int,
    patch_values: int,
) -> list[dict[str, Any]]:
    """Every path against the packed model in float32; one that is below its gate is not timed."""
    grids = max((filling(mix, budget) for mix in chosen), key=len)
    images = Mix("", "", grids).images(patch_values)
    wanted = expect(images)
    rows = []
    for name, path in list(paths.items()):
        try:
            bound = path.bind(images)
            bound.launch()
            found = bound.fetch()
        except Exception as error:
            run.leave_out(f"{model}, {name}", error)
            del paths[name]
            continue
        row: dict[str, Any] = {"name": name, "precision": path.precision, "ours": path.ours}
        for output in OUTPUTS:
            row[output] = float(cosine(found[output], wanted[output]).min())
        errors = [np.abs(found[o] - wanted[o]).max() / np.abs(wanted[o]).max() for o in OUTPUTS]
        row["max_error"] = float(max(errors))
        pooled, tokens = GATES[path.precision]
        row["passed"] = row["pooled"] >= pooled and row["tokens"] >= tokens
        rows.append(row)
        run.say(f"{model}, {name}: pooled {row['pooled']:.6f}, worst token {row['tokens']:.6f}")
        if not row["passed"]:
            run.leave_out(
                f"{model}, {name}, timed", f"cosine of pooled {row['pooled']:.6f}, of tokens {row['tokens']:.6f}"
            )
            del paths[name]
    return rows


def _speed(
    run: Run, model: str, paths: dict[str, GpuPath], mix: Mix, budget: int, filled: Mix, shape: dict[str, int]
) -> list[dict[str, Any]]:
    images = filled.images(shape["patch_values"])
    calls = {}
    for name, path in paths.items():
        what = f"{model}, {mix.name}, {budget} tokens, {name}"
        if ("compiled" in name and mix.name != COMPILED_MIX) or run.late(what):
            continue
        try:
            call = run.synchronized(path.bind(images))
            call()
        except Exception as error:
            run.leave_out(what, error)
            continue
        calls[name] = call
    tokens, work = sum(filled.lengths), useful_gflop(shape, filled.lengths)
    rows = []
    for name, timing in interleaved(calls, run.rounds).items():
        run.say(f"{model}, {mix.name}, {budget} tokens, {name}: {timing.median * 1e3:.2f} ms")
        rows.append(
            {
                "mix": mix.name,
                "budget": budget,
                "images": len(images),
                "tokens": tokens,
                "padding": round(filled.padding, 4),
                "name": name,
                "precision": paths[name].precision,
                "ours": paths[name].ours,
                "ms": timing.median * 1e3,
                "best_ms": timing.best * 1e3,
                "spread": timing.spread,
                "tokens_per_second": tokens / timing.median,
                "tflops": work / timing.median / 1e3,
            }
        )
    return rows


def _kernels(run: Run, models: Sequence[str], budget: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for mix in mixes():
        grids = filling(mix, budget)
        for model in models:
            if mix.name not in SPEED_MIXES or run.late(f"Triton kernels, {model}, {mix.name}"):
                continue
            try:
                lengths = [height * width for height, width in grids]
                found = gpu_kernels.compare_attention(model, lengths, run.rounds)
                found += gpu_kernels.compare_positions(model, grids, run.rounds)
            except Exception as error:
                run.leave_out(f"Triton kernels, {model}, {mix.name}", error)
                continue
            rows += [{"mix": mix.name, "budget": budget, **row} for row in found]
            run.say(f"Triton kernels, {model}, {mix.name}")
    return rows


def rates(run: Run) -> dict[str, float]:
    """TFLOP/s of the fastest matrix product seen, by precision: of large squares, and of a model's own shapes."""
    side = SQUARE[run.device]
    shapes = [(side,) * 3, (2 * side, side // 8, side // 2), (2 * side, side // 2, side // 8)]
    found: dict[str, float] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        for rows, inner, columns in shapes:
            a = torch.randn(rows, inner, device=run.device).to(dtype)
            b = torch.randn(inner, columns, device=run.device).to(dtype)
            call = run.synchronized(Bound(partial(torch.matmul, a, b), dict))
            seconds = interleaved({"product": call}, run.rounds)["product"].best
            found[name] = max(found.get(name, 0.0), 2 * rows * inner * columns / seconds / 1e12)
    run.say(", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in found.items()))
    return found


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the engines are to reach, and what they did."""
    found = []
    largest = max((row["budget"] for row in report["speed"]), default=0)
    for model in report["models"]:
        rows = [row for row in report["speed"] if row["model"] == model and row["budget"] == largest]
        mine = [row for row in rows if row["ours"] and row["precision"] != "fp32"]
        if mine:
            best = max(mine, key=lambda row: row["tflops"])
            share = best["tflops"] / report["rates"]["bf16"]
            what = f"{model}: share of the measured bf16 rate at {largest} tokens"
            found.append({"what": what, "goal": 0.6, "found": share, "by": f"{best['name']}, {best['mix']}"})
        compiled = [row for row in rows if row["name"].startswith(COMPILED)]
        rivals = [row for row in mine if row["mix"] == COMPILED_MIX]
        if compiled and rivals:
            best = min(rivals, key=lambda row: row["ms"])
            what = f"{model}: times torch.compile padded, {COMPILED_MIX}, {largest} tokens"
            found.append({"what": what, "goal": 1.5, "found": compiled[0]["ms"] / best["ms"], "by": best["name"]})
    return found


def executed(device: str) -> dict[str, Any]:
    """The machine and what is installed on it."""
    versions = {"python": sys.version.split()[0], "cuda": torch.version.cuda or "-"}
    for name in (
        "torch",
        "triton",
        "transformers",
        "onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "tensorrt",
        "tensorrt-rtx",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "device": str(cuda_device.find()) if device == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "system": system_name(),
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
