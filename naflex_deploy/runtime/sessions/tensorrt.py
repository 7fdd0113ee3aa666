"""TensorRT and TensorRT-RTX, on cuda-core: pinned staging, a context and a CUDA graph for each optimization profile.

Two lanes, each with a stream and buffers of its own: while one computes, the other copies. Contexts share one
scratch memory, so computations follow one another across lanes, by an event that the next one waits for.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import InputSpec, OutputSpec, Variant
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.core.rows import lay_rows
from naflex_deploy.runtime.sessions import Outputs
from naflex_deploy.runtime.sessions.tensorrt_compatibility import check_plan
from naflex_deploy.runtime.sessions.tensorrt_library import MODULES, NAMES
from naflex_deploy.runtime.sessions.tensorrt_plan import REBUILD
from naflex_deploy.runtime.sessions.tensorrt_shapes import Sizes, choose_profile, shape_of

LANES = 2

Array = npt.NDArray[np.generic]


class TensorRTSession:
    """A deserialised engine. Safe to run from several threads.

    Args:
        plan: Path of the engine.
        variant: Its manifest entry.

    Raises:
        IncompatibleError: It does not fit this machine, which is found out before it is deserialised; or it does
            not deserialise.
    """

    def __init__(self, plan: Path, variant: Variant) -> None:
        check_plan(plan, variant)
        self._trt = import_module(MODULES[variant.backend])
        self._cuda = _cuda_core()
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
        self._scratch = self._device.allocate(max(scratch, 1), stream=stream)
        self._contexts = [self._context(index, stream, scratch) for index in profiles]
        stream.sync()
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(_Lane(self._cuda, self._device, variant))

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        """Run one pack; see `Session.run`. Arrays are copies of their own."""
        with self._computing(pack) as (lane, sizes):
            return lane.fetch(outputs, sizes, pack)

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """The same, leaving outputs in GPU memory of their own: objects that speak DLPack.

        Per-token outputs have as many rows as the pack, per-image ones as it has images.
        """
        with self._computing(pack) as (lane, _):
            return lane.keep(outputs, pack)

    @contextmanager
    def _computing(self, pack: Pack) -> Iterator[tuple[_Lane, Sizes]]:
        """A lane on whose stream a pack is computed, and the sizes of its buffers."""
        index = choose_profile(pack, self._variant.profiles)
        sizes = self._variant.profiles[index]
        self._device.set_current()
        lane = self._lanes.get()
        try:
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
            said = self._logger.errors[-1] if self._logger.errors else "it gave no reason"
            raise IncompatibleError(
                f"{NAMES[self._variant.backend]} does not load variant '{self._variant.name}': {said}", hint=REBUILD
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
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            said = self._logger.errors[-1] if self._logger.errors else "it gave no reason"
            raise IncompatibleError(
                f"profile {index} of variant '{self._variant.name}' does not start: {said}",
                hint="leave the largest of packing.budgets out",
            )
        context.set_device_memory(int(self._scratch.handle), scratch)
        context.set_optimization_profile_async(index, int(stream.handle))
        for spec in self._variant.inputs:
            context.set_input_shape(spec.role.value, shape_of(spec, self._variant.profiles[index]))
        return context

    def _launch(self, lane: _Lane, index: int) -> None:
        """Compute what the lane holds, after what other lanes compute."""
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

    def _capture(self, lane: _Lane, index: int) -> Any:
        """The graph of a profile on a lane; ``None`` where the library cannot be captured."""
        self._enqueue(lane, index)  # the first run compiles and allocates, which no graph may hold
        lane.stream.sync()
        capturable = getattr(self._contexts[index], "is_stream_capturable", None)
        if capturable is not None and not capturable(int(lane.stream.handle)):
            return None
        builder = lane.stream.create_graph_builder()
        builder.begin_building("thread_local")
        self._enqueue(lane, index)
        graph = builder.end_building().complete()
        builder.close()
        return graph

    def _enqueue(self, lane: _Lane, index: int) -> None:
        context = self._contexts[index]
        for name, buffer in lane.device_buffers.items():
            context.set_tensor_address(name, int(buffer.handle))
        if not context.execute_async_v3(int(lane.stream.handle)):
            said = self._logger.errors[-1] if self._logger.errors else "it gave no reason"
            raise IncompatibleError(f"variant '{self._variant.name}' does not run: {said}", hint=REBUILD)


class _Lane:
    """A stream, and for every tensor a pinned and a device buffer that hold it at its largest."""

    def __init__(self, cuda: Any, device: Any, variant: Variant) -> None:
        self._cuda = cuda
        self._device = device
        self._inputs = {spec.role: spec for spec in variant.inputs}
        self._outputs = {spec.name: spec for spec in variant.outputs}
        self.stream = device.create_stream()
        self.graphs: dict[int, Any] = {}
        self.device_buffers: dict[str, Any] = {}
        self._pinned: dict[str, npt.NDArray[np.uint8]] = {}
        self._host_buffers: dict[str, Any] = {}
        pinned = cuda.LegacyPinnedMemoryResource()
        specs: dict[str, InputSpec | OutputSpec] = {spec.role.value: spec for spec in variant.inputs}
        for name, spec in (specs | self._outputs).items():
            size = max(_bytes(shape_of(spec, sizes), spec.dtype) for sizes in variant.profiles)
            self.device_buffers[name] = device.allocate(size, stream=self.stream)
            self._host_buffers[name] = pinned.allocate(size)
            address = int(self._host_buffers[name].handle)
            self._pinned[name] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self.stream.sync()

    def stage(self, pack: Pack, sizes: Sizes) -> None:
        """Write every view of a pack into pinned memory and start copying it."""
        patches = self._host(Role.PATCHES.value, self._inputs[Role.PATCHES], sizes)
        patches[: pack.tokens] = pack.patches
        patches[pack.tokens :] = 0
        full = Pack(patches, pack.grid_hw, pack.offsets, pack.prefix, sizes["images"])  # type: ignore[arg-type]
        rows = {}
        if Role.PAD_INDEX in self._inputs:
            rows[Role.PAD_INDEX], rows[Role.UNPAD_INDEX] = lay_rows(full, sizes["rows"], sizes["row_tokens"])
        for role, spec in self._inputs.items():
            host = self._host(role.value, spec, sizes)
            if role != Role.PATCHES:
                host[:] = rows[role] if role in rows else full.view(role)
            self._part(self._host_buffers, role.value, host.nbytes).copy_to(
                self._part(self.device_buffers, role.value, host.nbytes), stream=self.stream
            )

    def fetch(self, outputs: Sequence[str], sizes: Sizes, pack: Pack) -> Outputs:
        """Wait, and bring outputs back."""
        hosts = {name: self._host(name, self._outputs[name], sizes) for name in outputs}
        for name, host in hosts.items():
            self._part(self.device_buffers, name, host.nbytes).copy_to(
                self._part(self._host_buffers, name, host.nbytes), stream=self.stream
            )
        self.stream.sync()
        return {name: host[: _rows(name, pack)].copy() for name, host in hosts.items()}

    def keep(self, outputs: Sequence[str], pack: Pack) -> dict[str, Any]:
        """Copy outputs into device memory of their own, and wait."""
        view = import_module("cuda.core.utils").StridedMemoryView
        kept = {}
        for name in outputs:
            spec = self._outputs[name]
            shape = (_rows(name, pack), *(int(dim) for dim in spec.shape[1:]))
            buffer = self._device.allocate(_bytes(shape, spec.dtype), stream=self.stream)
            self._part(self.device_buffers, name, buffer.size).copy_to(buffer, stream=self.stream)
            kept[name] = view.from_buffer(buffer, shape, dtype=np.dtype(spec.dtype))
        self.stream.sync()
        return kept

    def _host(self, name: str, spec: InputSpec | OutputSpec, sizes: Sizes) -> Array:
        shape = shape_of(spec, sizes)
        array: Array = self._pinned[name][: _bytes(shape, spec.dtype)].view(spec.dtype).reshape(shape)
        return array

    def _part(self, buffers: dict[str, Any], name: str, size: int) -> Any:
        whole = buffers[name]
        return self._cuda.Buffer.from_handle(int(whole.handle), size, owner=whole)


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _rows(output: str, pack: Pack) -> int:
    return pack.tokens if output.startswith("tokens") else pack.images


def _cuda_core() -> Any:
    try:
        return import_module("cuda.core")
    except ImportError:
        raise IncompatibleError(
            "running TensorRT needs cuda-core, which is not installed",
            hint="pip install 'naflex-deploy[tensorrt]' or 'naflex-deploy[tensorrt-rtx]'",
        ) from None


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors, which are the only reasons that the library gives."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))

    return Logger()
