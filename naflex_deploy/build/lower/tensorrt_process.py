"""Runs the builder in a process of its own, and says in our words why it refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from naflex_deploy.build.lower.tensorrt_log import BuildLog, parse
from naflex_deploy.core.errors import IncompatibleError

WORKER = "naflex_deploy.build.lower.tensorrt_worker"

REFUSALS = (
    (
        r"Cannot compile for target\(s\) (?P<targets>[\w, ]+), because the model contains HW-specific datatypes: b16",
        "{targets} has no bf16",
        "--precision fp16, or leave that target out",
    ),
    (
        r"FP32 GEMM is not supported",
        "sm75 has no float32 matrix product in TensorRT-RTX",
        "--precision fp16, or leave that target out",
    ),
    (
        r"uses packed \(NHD\) inputs",
        "TensorRT has no fused kernel for packed attention on this target",
        "take the segment form",
    ),
    (r"not supported by a dedicated kernel", "TensorRT has no kernel for this attention", "take the segment form"),
    (
        r"cudaError 35|CUDA driver version is insufficient",
        "there is no NVIDIA driver, or it is too old (CUDA error 35)",
        "install or update the driver, or take --backend tensorrt-rtx, which builds without a GPU",
    ),
    (
        r"out of memory|cudaErrorMemoryAllocation",
        "the GPU has not enough memory to build the engine",
        "leave the largest of packing.budgets out",
    ),
    (
        r"No plugin (?:creator )?found|[Pp]lugin not found|Cannot find plugin: (?P<plugin>[\w:]+)",
        "the graph needs a plugin that TensorRT does not have",
        "pip install 'naflex-deploy[tensorrt]', or build without plugins",
    ),
    (
        r"No module named '(?P<module>[\w.]+)'",
        "the library's module {module} is missing",
        "reinstall it: pip install --force-reinstall 'naflex-deploy[tensorrt-rtx]'",
    ),
)


@dataclass(frozen=True)
class Request:
    """What the worker is asked for.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        graph, plan: Paths of the ONNX graph and of the plan to write.
        profiles: One shape for each input, by name, for each optimization profile.
        targets: Architectures, none for the library's default.
        decomposable: Attention without a fused kernel may be built of several.
        timing_cache: Path of a cache to load and save, if any.
    """

    backend: str
    graph: str
    plan: str
    profiles: list[dict[str, tuple[int, ...]]]
    targets: tuple[str, ...] = ()
    decomposable: bool = False
    timing_cache: str | None = None


def run(request: Request, report: Callable[[str], None] = lambda step: None) -> tuple[BuildLog, int]:
    """Build.

    Returns:
        What the log told, and the worker's peak memory in bytes.

    Raises:
        IncompatibleError: The builder refused; says why.
    """
    environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": str(int(request.backend == "tensorrt-rtx"))}
    with tempfile.TemporaryDirectory(prefix="naflex-deploy-") as temporary:
        log = Path(temporary) / "log.jsonl"
        order = json.dumps(asdict(request) | {"log": str(log)})
        worker = subprocess.Popen(
            [sys.executable, "-m", WORKER, order],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            assert worker.stdout is not None
            peak = 0
            for line in worker.stdout:
                kind, _, rest = line.rstrip("\n").partition(" ")
                if kind == "step":
                    report(rest)
                elif kind == "peak":
                    peak = int(rest)
            _, complaint = worker.communicate()
        finally:
            worker.kill()
            worker.wait()
        messages = [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
        found = parse(messages)
    if worker.returncode != 0:
        last = complaint.strip().splitlines()[-1:]
        raise refusal(request.backend, [*found.errors, *last], worker.returncode)
    return found, peak


def refusal(backend: str, errors: Sequence[str], status: int) -> IncompatibleError:
    """The error for what the builder said; the first message that is known, else the last one there is."""
    for pattern, message, hint in REFUSALS:
        for error in errors:
            if match := re.search(pattern, error):
                return IncompatibleError(f"{backend}: {message.format(**match.groupdict())}", hint=hint)
    said = " ".join(errors[0].split())[:300] if errors else f"it ended with status {status} and no message"
    return IncompatibleError(f"{backend} cannot build this graph: {said}", hint="try --backend onnxruntime")
