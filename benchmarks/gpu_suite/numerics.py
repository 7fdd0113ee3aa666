"""Measures on a CPU how much accuracy the graphs for GPUs lose in 16 bits.

    python -m benchmarks.gpu_suite.numerics [--models siglip2-base siglip2-so400m Qwen3VL …] [--small] [-o DIR]

The graphs for ONNX Runtime's CUDA provider and for TensorRT run with every result rounded as a GPU would store it, and
are compared with the packed model in float32; in bf16, transformers in bf16 serves as a yardstick. Weights are random,
of the true shapes; towers of vision-language models are small ones, on long thin grids too. No GPU is used; kernels
there sum in another order, and fused ones round less.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from benchmarks.gpu_suite.parity import parity
from benchmarks.gpu_suite.paths import OUTPUTS, Bound, GpuPath, Images, Results, reference, transformers_path
from benchmarks.gpu_suite.report import parity_table
from benchmarks.gpu_suite.rounded import rounded
from benchmarks.gpu_suite.run import Run
from benchmarks.gpu_suite.speed import filling
from benchmarks.peers import contenders
from benchmarks.peers.mixes import mixes
from benchmarks.support.provenance import installed
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.onnxruntime_cuda import lowering as onnxruntime_cuda
from naflex_deploy.compiler.backends.tensorrt.lowering import write_lowered
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.passes import graphs
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.core.rows import row_views
from tests.support import vlms
from tests.support.packs import random_images

BUDGET = 1024
TOWERS = [name for name in vlms.VLMS if name not in vlms.SAME_TOWERS]
THIN = ((2, 400), (300, 2), *vlms.GRIDS)
"""Rounded positions would put patches far from the first row and column on wrong places."""
TORCH = "transformers SDPA, padded bf16"
GRAPHS = ("onnxruntime-cuda, rows", "tensorrt, segment", "tensorrt, rows")
"""The forms of attention that a CPU can run. The packed and plugin forms have no operators for CPUs, but sum alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = [*contenders.SIZES, *TOWERS]
    parser.add_argument("--models", nargs="+", choices=models, default=["siglip2-base", "siglip2-so400m"])
    parser.add_argument("--small", action="store_true", help="use a narrow model, to test the benchmark")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu-numerics"))
    options = parser.parse_args()
    run = Run("cpu", rounds=1, limit=float("inf"))
    rows = [
        {"model": model, **row}
        for model in (["small"] if options.small else options.models)
        for row in measure(run, model)
    ]
    executed = {"cpu": cpu_name(), "versions": installed("onnxruntime", "torch", "transformers")}
    report = {"schema": 1, "executed": executed, "parity": rows, "left_out": run.left_out}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu_numerics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"Computed on {cpu_name()}, no GPU.\n")
    print("\n".join(parity_table(rows)))


def measure(run: Run, model: str) -> list[dict[str, Any]]:
    """Measure a row for each graph and precision, as `parity` returns them."""
    with tempfile.TemporaryDirectory(prefix="naflex-numerics-") as temporary:
        folder = Path(temporary)
        if model in TOWERS:
            vlm = vlms.VLMS[model]
            checkpoint = checkpoints.read(vlm.save(folder / "model"))
            images: Images = random_images(THIN, vlm.patch_size)
            torch_path = _tower_path(vlm, folder / "model")
        else:
            source = contenders.model(model)
            checkpoint = checkpoints.read(source)
            pack = max((filling(mix, BUDGET) for mix in mixes()), key=lambda pack: len(set(pack.grids)))
            images = pack.images(checkpoint.architecture.patch_values)
            torch_path = transformers_path(source, "cpu", "bf16")
        export(checkpoint.model(OUTPUTS), folder / "portable.onnx")
        paths = {TORCH: torch_path}
        for name in GRAPHS:
            for precision in ("fp16", "bf16"):
                bind = partial(_bind, folder / "portable.onnx", name, precision)
                paths[f"{name} {precision}"] = GpuPath(precision, True, bind)
        return parity(run, model, paths, partial(reference, checkpoint, "cpu"), images, TORCH)


def _tower_path(vlm: vlms.Vlm, directory: Path) -> GpuPath:
    """The tower as transformers runs it in bf16: loaded in it, so that rotary frequencies stay in float32."""
    model = vlm.load(directory, torch.bfloat16)

    def bind(images: Images) -> Bound:
        def fetch() -> Results:
            tokens = vlms.expected(vlm, model, images, dtype=torch.bfloat16)["tokens"].float().numpy()
            ends = np.cumsum([len(image) for image in images])
            pooled = [part.mean(0) for part in np.split(tokens, ends[:-1])]
            return {"tokens": tokens, "pooled": np.stack(pooled)}

        return Bound(lambda: None, fetch)

    return GpuPath("bf16", False, bind)


def _bind(portable: Path, name: str, precision: str, images: Images) -> Bound:
    pack = Pack.of(images)
    with tempfile.TemporaryDirectory(dir=portable.parent) as temporary:
        lowered, written = Path(temporary) / "lowered.onnx", Path(temporary) / "rounded.onnx"
        backend, form = name.split(", ")
        if backend == "tensorrt":
            write_lowered(portable, lowered, form, precision)
        else:
            model = graphs.read(portable)
            onnxruntime_cuda.rewrite(model, form, precision)
            model.stored = {}  # The portable graph's weights are in another directory.
            graphs.write(model, lowered, lowered.parent)
        onnx.save(rounded(lowered, precision), str(written), save_as_external_data=True, location="weights")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = ort.InferenceSession(str(written), options, providers=["CPUExecutionProvider"])
    found: dict[str, Any] = {}
    return Bound(lambda: found.update(_run(session, pack)), lambda: found)


def _run(session: ort.InferenceSession, pack: Pack) -> Results:
    roles = [Role(value.name) for value in session.get_inputs()]
    views: Mapping[Role, Any] = row_views(pack, roles)
    feeds = {role: views[role] if role in views else pack.view(role) for role in roles}
    found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), feeds), strict=True))
    return {name: values[: pack.images] if name == "pooled" else values for name, values in found.items()}


if __name__ == "__main__":
    main()
