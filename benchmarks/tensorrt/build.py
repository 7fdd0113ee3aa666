"""Measures the build of a ViT-B for TensorRT-RTX, without a GPU: time, memory of the builder, memory of the engine.

    python -m benchmarks.tensorrt.build [--model siglip2-base] [--budgets 1024 4096 16384] [--precision fp16]

Builds a plan with all budgets for each form of attention. Activation memory is the builder's figure for a run; no
engine is executed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.tensorrt.lowering import make_request, write_lowered
from naflex_deploy.compiler.backends.tensorrt.process import run
from naflex_deploy.compiler.backends.tensorrt.profiles import profile_sizes
from naflex_deploy.compiler.export import export
from naflex_deploy.core.config import resolve
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library

BACKEND = "tensorrt-rtx"
FORMS = ("segment", "rows")


def measure(model: str, budgets: list[int], precision: str) -> list[dict[str, Any]]:
    """Build each form once.

    Args:
        model: Name of a model that ``random:NAME`` accepts.
        budgets: Token budgets of the plan, in ascending order.
        precision: Precision to build.
    """
    checkpoint = checkpoints.read(f"random:{model}")
    settings = (f"packing.budgets={budgets}", f"image.tokens={min(1024, budgets[0])}")
    profile = resolve("doc-ocr", settings=settings, environment={}).profile
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(checkpoint.model(("tokens", "pooled")), folder / "portable.onnx")
        for form in FORMS:
            graph = folder / f"{form}.onnx"
            inputs, _ = write_lowered(folder / "portable.onnx", graph, form, precision)
            sizes = profile_sizes(profile, BACKEND, form, checkpoint.architecture.prefix)
            request = make_request(BACKEND, graph, folder / "engine.plan", inputs, sizes, (), precision)
            started = time.perf_counter()
            built = run(request)
            rows.append(
                {
                    "form": form,
                    "seconds": round(time.perf_counter() - started, 1),
                    "builder_peak_bytes": built.peak_memory,
                    "plan_bytes": Path(request.plan).stat().st_size,
                    "weights_bytes": built.log.weights_bytes,
                    "profiles": [
                        {**size, "activation_bytes": one.activation_bytes, "fused_attentions": one.fused_attentions}
                        for size, one in zip(sizes, built.log.profiles, strict=True)
                    ],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="siglip2-base")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--precision", default="fp16")
    options = parser.parse_args()
    executed = {"cpu": cpu_name(), "library": f"{BACKEND} {tensorrt_library.installed(BACKEND)}"}
    rows = measure(options.model, sorted(options.budgets), options.precision)
    print(json.dumps({"schema": 1, "executed": executed, "model": options.model, "builds": rows}, indent=2))


if __name__ == "__main__":
    main()
