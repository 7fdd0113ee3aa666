"""Runs every implementation of a NaFlex model on the GPU at hand, compares it with one reference, and times it.

    python -m benchmarks.gpu_suite [--models siglip2-so400m siglip2-base] [--budgets 1024 4096 16384] [-o DIR]
    python -m benchmarks.gpu_suite --device cpu --tiny      tests the suite itself

First, results are compared. Then packs of each budget are timed, the largest first because the goals are set on it,
with contenders taking turns, and inputs and outputs in GPU memory. Last, the Triton kernels are timed alone. Paths that
cannot run here, or that are left out because time runs out, are listed with the reason; without a GPU, the report has
nothing else. Weights are random, of the true shapes. Writes gpu_suite.json and gpu_suite.md, which name the machine.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_suite.checks import sessions
from benchmarks.gpu_suite.ort_probe import probe
from benchmarks.gpu_suite.parity import parity
from benchmarks.gpu_suite.paths import OUTPUTS, GpuPath, engine_path, packed_path, reference, transformers_path
from benchmarks.gpu_suite.report import render
from benchmarks.gpu_suite.run import Run
from benchmarks.gpu_suite.speed import COMPILED_MIX, filling, kernels, rates, speed
from benchmarks.peers import contenders
from benchmarks.peers.mixes import mixes
from benchmarks.support.provenance import installed
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.export import export
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import resolve
from naflex_deploy.core.machine import cpu_name, system_name
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends import cuda_device, find

PADDED = "transformers SDPA, padded"
COMPILED = "transformers SDPA, padded, compiled"
GPU_ENGINES = {
    "onnxruntime-cuda": ("fp16", "bf16", "fp32"),
    "tensorrt": ("fp16", "bf16"),
    "tensorrt-rtx": ("fp16", "bf16"),
}
CPU_ENGINES = {"onnxruntime": ("fp32",)}
NO_CUDNN = {"sdpa_kernel": str(1 | 2 | 16)}
"""Bit mask for ONNX Runtime's attention that allows flash, memory-efficient and unfused kernels, but not cuDNN."""

SPEED_MIXES = ("mixed", "documents")
LIBRARIES = ("torch", "triton", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--models", nargs="+", choices=list(contenders.SIZES), default=["siglip2-so400m", "siglip2-base"]
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=440, help="time after which nothing new is started")
    parser.add_argument("--tiny", action="store_true", help="use a narrow model and small packs, to test the suite")
    parser.add_argument("--only", nargs="+", help="run only contenders whose name contains one of these")
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
        run: The run, which keeps the time.
        models: Names among `contenders.SIZES`.
        budgets: Tokens of the packs to time, in ascending order.
        only: Run only contenders whose name contains one of these.
    """
    report = _nothing_yet(run)
    report["rates"] = rates(run)
    for model in models:
        if run.late(model):
            continue
        run.say(f"{model}: creating the model")
        with tempfile.TemporaryDirectory(prefix="naflex-gpu-") as folder:
            found = _model(run, model, budgets, only, Path(folder))
        report["models"][model] = found.pop("shape")
        for key, rows in found.items():
            report[key] += [{"model": model, **row} for row in rows]
    if run.device == "cuda":
        packs = [filling(mix, budgets[-1]) for mix in mixes() if mix.name in SPEED_MIXES]
        report["kernels"] = kernels(run, models, packs, budgets[-1])
    else:
        run.leave_out("Triton kernels", "they are timed on a GPU; tests/plugins checks their numbers on a CPU")
    report["goals"] = goals(report)
    return _closed(run, report)


def leave_all_out(run: Run, models: Sequence[str], only: Sequence[str]) -> dict[str, Any]:
    """The report for a machine without a GPU, with the reason why each path does not run, and no figures."""
    report = _nothing_yet(run)
    reason = f"torch {torch.__version__} sees no GPU: {cuda_device.find()}"
    for model in models:
        for name in _makers(run.device, None, None, Path(), None):
            if any(part in name for part in only):
                engine = name.partition(" ")[0]
                backend = find(engine) if engine in FOLDERS else None
                missing = (backend.cannot_build() or backend.cannot_run()) if backend else None
                run.leave_out(f"{model}, {name}", missing or reason)
    run.leave_out("Triton kernels", f"{reason}; tests/plugins checks their numbers on a CPU")
    return _closed(run, report)


def _nothing_yet(run: Run) -> dict[str, Any]:
    head = {"schema": 1, "executed": executed(run.device), "command": " ".join(sys.argv)}
    return head | {
        "rates": {},
        "models": {},
        "parity": [],
        "sessions": [],
        "engines": [],
        "speed": [],
        "kernels": [],
        "goals": [],
    }


def _closed(run: Run, report: dict[str, Any]) -> dict[str, Any]:
    return report | {"left_out": run.left_out, "seconds": round(run.seconds, 1)}


def _model(run: Run, model: str, budgets: Sequence[int], only: Sequence[str], folder: Path) -> dict[str, Any]:
    """The shape of one model, and the rows of ``parity``, ``sessions``, ``engines`` and ``speed``."""
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
    paths: dict[str, GpuPath] = {}
    for name, make in _makers(run.device, source, checkpoint, portable, profile).items():
        if not any(part in name for part in only) or run.late(f"{model}, {name}"):
            continue
        try:
            paths[name] = make()
        except Exception as error:  # A library may fail for any reason, which goes into the table.
            run.leave_out(f"{model}, {name}", error)
    chosen = [mix for mix in mixes() if mix.name in SPEED_MIXES]
    most = max((filling(mix, budgets[0]) for mix in chosen), key=lambda pack: len(pack.grids))
    expect = partial(reference, checkpoint, run.device)
    held = parity(run, model, paths, expect, most.images(a.patch_values), f"{PADDED} bf16")
    packs = [Pack.of(filling(chosen[0], budget).images(a.patch_values)) for budget in budgets]
    kept = sessions(run, model, paths, packs)
    engines = [
        {"name": name, **probe(path.variant[1], path.variant[0])}
        for name, path in paths.items()
        if path.variant and path.variant[0].backend == "onnxruntime-cuda"
    ]
    timed = []
    for budget in reversed(budgets):
        for mix in chosen:
            pack = filling(mix, budget)
            if pack.grids and not run.late(f"{model}, {mix.name}, {budget} tokens"):
                timed += speed(run, model, paths, pack, budget, shape)
    gc.collect()
    torch.cuda.empty_cache()
    return {"shape": shape, "parity": held, "sessions": kept, "engines": engines, "speed": timed}


def _makers(
    device: str, source: Any, checkpoint: Any, portable: Path, profile: Any
) -> dict[str, Callable[[], GpuPath]]:
    """Functions that make each path, by name; torch's padded one comes first, because errors are compared with its."""
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


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The goals of the engines, and what they achieved."""
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
    """The machine and the versions installed on it."""
    versions = {"python": sys.version.split()[0], "cuda": torch.version.cuda or "-", **installed(*LIBRARIES)}
    return {
        "device": str(cuda_device.find()) if device == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "system": system_name(),
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
