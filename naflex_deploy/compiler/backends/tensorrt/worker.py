"""The builder process: loads the library that its environment selects, and never deserialises what it built.

It is called with the path of a file of orders, one JSON object per line: the fields of a `process.Request`, and the
path of a log to write. It prints ``step …`` lines as it proceeds, then ``built PEAK_MEMORY`` or ``refused`` per order.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import (
    CreateConfig,
    EngineBytesFromNetwork,
    NetworkFromOnnxPath,
    PostprocessConfig,
    SetDecomposableAttentions,
    util,
)
from polygraphy.backend.trt import Profile as OptimizationProfile
from polygraphy.logger import G_LOGGER
from polygraphy.mod.trt_importer import lazy_import_trt

from naflex_deploy.core.machine import peak_memory

trt: Any = lazy_import_trt()


def build(order: dict[str, Any], messages: list[tuple[str, str]]) -> bytes:
    """Build an engine.

    Args:
        order: The fields of a `process.Request`.
        messages: List to which the (severity, text) of every library message is appended.

    Returns:
        The serialised plan.
    """
    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    if order["plugins"]:
        import_module(order["plugins"])
    util.TRT_LOGGER = _logger(messages)
    flags = trt.NetworkDefinitionCreationFlag
    network = NetworkFromOnnxPath(order["graph"], strongly_typed=hasattr(flags, "STRONGLY_TYPED"))
    if order["decomposable"]:
        network = SetDecomposableAttentions(network)
    builder, definition, parser = network()
    options: dict[str, Any] = {
        "profiles": [_profile(shapes) for shapes in order["profiles"]],
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
        "load_timing_cache": order["timing_cache"],
        "progress_monitor": _monitor(),
    }
    if order["backend"] == "tensorrt-rtx":
        targets = [(int(target[2:-1]), int(target[-1])) for target in order["targets"]]
        config = PostprocessConfig(CreateConfigRTX(compute_capabilities=targets or None, **options), _capturable)
    else:
        config = CreateConfig(**options)
    return bytes(
        EngineBytesFromNetwork((builder, definition, parser), config, save_timing_cache=order["timing_cache"])()
    )


def _capturable(builder: Any, network: Any, config: Any) -> None:
    """Keep the engine from allocating memory when it runs, which cannot be captured in a CUDA graph."""
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def _profile(shapes: dict[str, list[int]]) -> Any:
    profile = OptimizationProfile()
    for name, shape in shapes.items():
        profile.add(name, min=shape, opt=shape, max=shape)
    return profile


def _logger(messages: list[tuple[str, str]]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.append((severity.name, message))

    return Logger()


def _monitor() -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Prints a line when a top-level phase begins; nested phases are too many to print."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                print(f"step {phase}", flush=True)

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return True

    return Monitor()


def main() -> None:
    for line in Path(sys.argv[1]).read_text().splitlines():
        order = json.loads(line)
        messages: list[tuple[str, str]] = []
        answer = "refused"
        try:
            if order["timing_cache"]:
                Path(order["timing_cache"]).parent.mkdir(parents=True, exist_ok=True)
            Path(order["plan"]).write_bytes(build(order, messages))
            answer = f"built {peak_memory()}"
        except Exception as error:  # The parent turns any failure into one line.
            messages.append(("ERROR", f"{type(error).__name__}: {error}"))
        Path(order["log"]).write_text("".join(f"{json.dumps(message)}\n" for message in messages))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
