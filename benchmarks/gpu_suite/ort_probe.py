"""Reports where ONNX Runtime placed the operators of a GPU engine, and which attention kernels it chose.

    python -m benchmarks.gpu_suite.ort_probe BUNDLE < variant.json

This runs in its own process, because ONNX Runtime reports its attention kernels only on standard output, and only if an
environment variable asks for it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.onnxruntime_cuda import session as onnxruntime_cuda

MARK = "placement: "


def probe(bundle: Path, variant: Variant) -> dict[str, Any]:
    """The operators by provider, and the attention kernels; or the reason why they are unknown."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_suite.ort_probe", str(bundle)],
        input=variant.model_dump_json(),
        capture_output=True,
        text=True,
        env=os.environ | {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"},
    )
    placed = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not placed:
        return {"reason": (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]}
    kernels = Counter(re.findall(r"SdpaKernel=(\w+)", done.stdout))
    return {"attention": dict(kernels), **json.loads(placed[-1])}


def _run(bundle: Path, variant: Variant) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make = ort.InferenceSession

        def profiled(data: bytes, options: ort.SessionOptions, providers: Any) -> ort.InferenceSession:
            options.enable_profiling = True
            options.profile_file_prefix = f"{folder}/profile"
            return make(data, options, providers=providers)

        ort.InferenceSession = profiled
        session = onnxruntime_cuda.OnnxRuntimeCudaSession(bundle / variant.model, variant, bundle)
        width = int(variant.inputs[0].shape[1])
        images = [Patches(np.zeros((n * n, width), variant.inputs[0].dtype), (n, n)) for n in (16, 6)]
        session.run(Pack.of(images), [spec.name for spec in variant.outputs])
        events = json.loads(Path(session._session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    placed = {
        provider: dict(Counter(node["op_name"] for node in nodes if node["provider"] == provider).most_common())
        for provider in sorted({node["provider"] for node in nodes})
    }
    print(f"\n{MARK}{json.dumps({'placement': placed})}")


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Variant.model_validate_json(sys.stdin.read()))
