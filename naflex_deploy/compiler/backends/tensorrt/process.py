"""Runs the builder in a process of its own, and turns its refusals into errors of ours."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from naflex_deploy.compiler.backends.tensorrt.log import BuildLog, parse
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.files import sha256

Report = Callable[[str], None]

WORKER = "naflex_deploy.compiler.backends.tensorrt.worker"

REINSTALL = "reinstall it: pip install --force-reinstall 'naflex-deploy[{backend}]'"

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
        "engine.tensorrt.attention = 'auto'",
    ),
    (
        r"not supported by a dedicated kernel",
        "TensorRT has no kernel for this attention",
        "engine.tensorrt.attention = 'auto'",
    ),
    (
        r"cudaError 35|CUDA driver version is insufficient",
        "there is no NVIDIA driver, or it is too old (CUDA error 35)",
        "install or update the driver, or use --backend tensorrt-rtx, which builds without a GPU",
    ),
    (
        r"out of memory|cudaErrorMemoryAllocation",
        "the GPU does not have enough memory to build the engine",
        "free GPU memory, or remove the largest of packing.budgets",
    ),
    (
        r"No plugin (?:creator )?found|[Pp]lugin not found|Cannot find plugin: (?P<plugin>[\w:]+)",
        "the graph needs a plugin that TensorRT does not have",
        "engine.tensorrt.attention = 'auto' builds without plugins",
    ),
    (
        r"No module named '(?P<module>triton|tensorrt(\.plugin)?)\b",
        "plugins need the module {module}, which is missing",
        "pip install triton 'tensorrt>=10.16', or engine.tensorrt.attention = 'auto'",
    ),
    (
        r"No module named '(?P<module>[\w.]+)'",
        "the library's module {module} is missing",
        REINSTALL,
    ),
    (
        r"(?P<library>lib[\w.-]+): cannot open shared object file",
        "the library's file {library} is missing",
        REINSTALL,
    ),
)


@dataclass(frozen=True)
class Request:
    """One engine that the worker is asked to build.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        graph: Path of the ONNX graph.
        plan: Path of the plan to write.
        profiles: For each optimization profile, the shape of every input by name.
        targets: GPU architectures to build for; empty for the library's default.
        decomposable: Whether an attention without a fused kernel may be built from several kernels.
        timing_cache: Path of a timing cache to load and save, if any.
        plugins: Module that registers the plugins that the graph needs, if any.
    """

    backend: str
    graph: str
    plan: str
    profiles: list[dict[str, tuple[int, ...]]]
    targets: tuple[str, ...] = ()
    decomposable: bool = False
    timing_cache: str | None = None
    plugins: str | None = None

    def digest(self, version: str) -> str:
        """SHA-256 of everything that a library of this version builds from, whatever the paths.

        Two plans with the same digest compute the same. Their bytes can differ if there are several outputs, because
        the library lists these in the order of their addresses in memory.
        """
        graph = Path(self.graph)
        files = [sha256(path) for path in (graph, graph.with_name(f"{graph.name}.data")) if path.is_file()]
        fields = asdict(self) | dict.fromkeys(("graph", "plan", "timing_cache"))
        return hashlib.sha256(json.dumps([version, files, fields]).encode()).hexdigest()


@dataclass(frozen=True)
class Built:
    """The result of a build whose plan was written.

    Attributes:
        log: The contents of the build log.
        peak_memory: Peak memory of the worker so far, in bytes.
    """

    log: BuildLog
    peak_memory: int


def run(request: Request, report: Report = lambda step: None) -> Built:
    """Build one plan.

    Raises:
        IncompatibleError: The builder refused, with the reason.
    """
    (result,) = run_all([request], report)
    if isinstance(result, IncompatibleError):
        raise result
    return result


def run_all(requests: Sequence[Request], report: Report = lambda step: None) -> Iterator[Built | IncompatibleError]:
    """Build several plans of one backend, one after another in one process.

    Yields:
        For each request, what was built or why it was refused. If the worker ends early, all that is left is refused.
    """
    backend = requests[0].backend
    environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": str(int(backend == "tensorrt-rtx"))}
    with tempfile.TemporaryDirectory(prefix="naflex-deploy-") as temporary:
        orders = Path(temporary) / "orders.jsonl"
        logs = [Path(temporary) / f"{index}.jsonl" for index in range(len(requests))]
        orders.write_text(
            "".join(
                f"{json.dumps(asdict(request) | {'log': str(log)})}\n"
                for request, log in zip(requests, logs, strict=True)
            )
        )
        with (Path(temporary) / "complaints").open("w+") as complaints:
            command = [sys.executable, "-m", WORKER, str(orders)]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment)
            try:
                for log in logs:
                    peak = _wait(worker, report)
                    found = parse(_messages(log))
                    complaints.seek(0)
                    last = complaints.read().strip().splitlines()[-1:]
                    yield Built(found, peak) if peak else refusal(backend, [*found.errors, *last], worker.poll())
            finally:
                worker.kill()
                worker.wait()


def _wait(worker: subprocess.Popen[str], report: Report) -> int:
    """Follow the worker through one order; returns its peak memory, or 0 if it refused or has ended."""
    assert worker.stdout is not None
    for line in worker.stdout:
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "step":
            report(rest)
        elif kind == "built":
            return int(rest)
        elif kind == "refused":
            return 0
    worker.wait()
    return 0


def _messages(log: Path) -> list[tuple[str, str]]:
    if not log.is_file():
        return []
    return [(severity, text) for severity, text in map(json.loads, log.read_text().splitlines())]


def refusal(backend: str, errors: Sequence[str], status: int | None) -> IncompatibleError:
    """The error for the builder's messages: our words for the first known refusal, else the first message."""
    for pattern, message, hint in REFUSALS:
        for error in errors:
            if match := re.search(pattern, error):
                return IncompatibleError(
                    f"{backend}: {message.format(**match.groupdict())}", hint=hint.format(backend=backend)
                )
    said = " ".join(errors[0].split())[:300] if errors else f"it ended with status {status} and no message"
    return IncompatibleError(f"{backend} cannot build this graph: {said}", hint="try --backend onnxruntime")
