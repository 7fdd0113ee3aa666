"""Run packs on TensorRT and TensorRT-RTX through cuda-core.

Inputs are staged in pinned memory, and each optimization profile has a context and a CUDA graph. There are two lanes,
each with its own stream and buffers: while one computes, the other copies. Contexts share one scratch memory, so each
computation waits for an event that the previous one recorded, on whichever lane that was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from naflex_deploy.core.errors import IncompatibleError, needs_extra
from naflex_deploy.core.manifest import Sizes, Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.backends.tensorrt.compatibility import check_plan, memory_needed
from naflex_deploy.runtime.backends.tensorrt.lane import Lane
from naflex_deploy.runtime.backends.tensorrt.library import MODULES, NAMES
from naflex_deploy.runtime.backends.tensorrt.plan import REBUILD
from naflex_deploy.runtime.backends.tensorrt.shapes import choose_profile, shape_of

LANES = 2


class TensorRTSession:
    """A deserialised engine. Safe to run from several threads.

    Args:
        plan: Path of the engine.
        variant: Its manifest entry.

    Raises:
        IncompatibleError: This machine cannot run the engine, which is checked before it is deserialised, or the
            library cannot deserialise it.
        MissingExtraError: cuda-core is not installed.
    """

    def __init__(self, plan: Path, variant: Variant) -> None:
        check_plan(plan, variant)
        self._trt = import_module(MODULES[variant.backend])
        with needs_extra(variant.backend):
            self._cuda: Any = import_module("cuda.core")
        self._variant = variant
        self._device = self._cuda.Device()
        self._device.set_current()
        self._logger = _logger(self._trt)
        self._engine = self._deserialize(plan)
        self._compute = threading.Lock()
        self._computed: Any = None
        stream = self._device.create_stream()
        profiles = range(len(variant.profiles))
        scratch = max(self._engine.get_device_memory_size_for_profile_v2(index) for index in profiles)
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        with _within_memory(variant):
            self._scratch = self._device.allocate(max(scratch, 1), stream=stream)
            self._contexts = [self._context(index, stream, scratch) for index in profiles]
            stream.sync()
            for _ in range(LANES):
                self._lanes.put(Lane(self._cuda, self._device, variant))

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        """Run one pack; see `Session.run`. The arrays are copies, which stay valid after later runs."""
        with self._computing(pack) as (lane, sizes):
            return lane.fetch(outputs, sizes, pack)

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """Run one pack; each output is an object that supports DLPack and owns its GPU memory.

        Per-token outputs have one row per token of the pack, per-image outputs one row per image.
        """
        with self._computing(pack) as (lane, _):
            return lane.keep(outputs, pack)

    @contextmanager
    def _computing(self, pack: Pack) -> Iterator[tuple[Lane, Sizes]]:
        """Compute a pack on a free lane; gives the lane and the sizes of the profile."""
        index = choose_profile(pack, self._variant.profiles)
        sizes = self._variant.profiles[index]
        self._device.set_current()
        lane = self._lanes.get()
        try:
            with _within_memory(self._variant):
                lane.stage(pack, sizes)
                self._launch(lane, index)
                yield lane, sizes
        finally:
            self._lanes.put(lane)

    def _deserialize(self, plan: Path) -> Any:
        runtime = self._trt.Runtime(self._logger)
        runtime.engine_host_code_allowed = False
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        self._runtime = runtime  # an engine does not keep its runtime alive
        if engine is None:
            raise IncompatibleError(
                f"{NAMES[self._variant.backend]} does not load variant '{self._variant.name}': {self._said()}",
                hint=REBUILD,
            )
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        expected = {spec.role.value for spec in self._variant.inputs} | {spec.name for spec in self._variant.outputs}
        if found != expected or engine.num_optimization_profiles != len(self._variant.profiles):
            raise IncompatibleError(
                f"{plan}: expected inputs and outputs {', '.join(sorted(expected))}, found {', '.join(sorted(found))}",
                hint=REBUILD,
            )
        return engine

    def _context(self, index: int, stream: Any, scratch: int) -> Any:
        context = self._engine.create_execution_context(self._strategy())
        if context is None:
            raise IncompatibleError(
                f"profile {index} of variant '{self._variant.name}' does not start: {self._said()}",
                hint="remove the largest of packing.budgets",
            )
        context.set_device_memory(int(self._scratch.handle), scratch)
        self._demand(context.set_optimization_profile_async(index, int(stream.handle)))
        for spec in self._variant.inputs:
            shape = shape_of(spec, self._variant.profiles[index])
            self._demand(context.set_input_shape(spec.role.value, shape))
        return context

    def _strategy(self) -> Any:
        """The configuration by which a context gets its memory and kernels."""
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._variant.backend == "tensorrt":
            return managed
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        # By default, kernels for a shape are compiled in the background of the first runs. A graph that is captured
        # before they are ready would keep the slower kernels for any shape.
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return config

    def _demand(self, done: bool) -> None:
        if not done:
            raise IncompatibleError(f"variant '{self._variant.name}' does not run: {self._said()}", hint=REBUILD)

    def _said(self) -> str:
        return self._logger.errors[-1] if self._logger.errors else "it gave no reason"

    def _launch(self, lane: Lane, index: int) -> None:
        """Compute the pack that the lane holds, after the computations of other lanes."""
        with self._compute:
            if self._computed is not None:
                lane.stream.wait(self._computed)
            if index not in lane.graphs:
                lane.graphs[index] = self._capture(lane, index)
            if (graph := lane.graphs[index]) is not None:
                graph.launch(lane.stream)
            else:
                self._enqueue(lane, index)
            self._computed = lane.stream.record()

    def _capture(self, lane: Lane, index: int) -> Any:
        """The CUDA graph of a profile on a lane; ``None`` where the stream cannot be captured."""
        self._enqueue(lane, index)  # the first run compiles and allocates, which cannot be captured in a graph
        lane.stream.sync()
        capturable = getattr(self._contexts[index], "is_stream_capturable", None)
        if capturable is not None and not capturable(int(lane.stream.handle)):
            return None
        builder = lane.stream.create_graph_builder()
        try:
            builder.begin_building("thread_local")
            self._enqueue(lane, index)
            return builder.end_building().complete()
        finally:
            builder.close()  # also after an error, because a stream that is still capturing runs nothing

    def _enqueue(self, lane: Lane, index: int) -> None:
        context = self._contexts[index]
        for name, buffer in lane.device_buffers.items():
            self._demand(context.set_tensor_address(name, int(buffer.handle)))
        self._demand(context.execute_async_v3(int(lane.stream.handle)))


@contextmanager
def _within_memory(variant: Variant) -> Iterator[None]:
    """Turn an out-of-memory error of CUDA into an `IncompatibleError`."""
    try:
        yield
    except Exception as error:  # cuda-core has no exception class for it
        if "CUDA_ERROR_OUT_OF_MEMORY" not in str(error):
            raise
        raise IncompatibleError(
            f"variant '{variant.name}' needs {memory_needed(variant) / 1e9:.1f} GB of GPU memory, "
            "which is not free while other work runs on the GPU",
            hint="free GPU memory, or remove the largest of packing.budgets",
        ) from None


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps error messages, because the library gives reasons only in its log."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))

    return Logger()
