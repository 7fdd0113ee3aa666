"""A TensorRT and a cuda-core that run on a CPU: memory is host memory, an engine is a graph in ONNX Runtime.

Every public name of these classes is one of the real classes of the same name (a test holds them to that), and each
refuses calls that the real one would refuse: a run without shapes, addresses, scratch memory or profile; a copy of
unequal sizes, or into memory of a stream that was not waited for; a graph launched before it is complete; anything but
capture on a stream that captures; capture of kernels that are still to be replaced. What leaves the session has to be
given back on the default stream, after whoever reads it there.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

from naflex_deploy.runtime.backends.tensorrt.plan import LENGTH, MAGIC, TARGETS


def plan_bytes(version: str = "1.7.1.116", targets: tuple[str, ...] = ("sm89",), size: int = 100) -> bytes:
    """A file with the header of a plan."""
    header = bytearray(size)
    header[:4] = MAGIC
    struct.pack_into("<Q", header, 0x10, size)
    struct.pack_into("<4B", header, 0x18, *(int(number) for number in version.split(".")))
    struct.pack_into("<I", header, 0x20, sum(TARGETS[target] for target in targets))
    assert size >= LENGTH
    return bytes(header)


class Machine:
    """What happened, in order, and the graph that stands for the plan."""

    def __init__(self, graph: Path | None = None, profiles: int = 1) -> None:
        self.events: list[str] = []
        self.profiles = profiles
        self.deserialized = 0
        self.capturable = True
        self.broken = False
        self.refusing: set[str] = set()
        self.free_memory = 10**9
        self.host_code_allowed: bool | None = None
        self.capturing: dict[int, Any] = {}
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(graph), options) if graph else None
        self.default_stream = _Stream(self)

    def tensorrt(self) -> ModuleType:
        module = ModuleType("tensorrt_rtx")
        machine = self

        class ILogger:
            class Severity:
                ERROR = 1

        class ExecutionContextAllocationStrategy:
            USER_MANAGED = "user managed"

        class DynamicShapesKernelSpecializationStrategy:
            EAGER = "eager"

        class Runtime(_Runtime):
            def __init__(self, logger: Any) -> None:
                super().__init__(machine, logger)

        vars(module).update(locals())
        return module

    def cuda_core(self) -> ModuleType:
        module = ModuleType("cuda.core")
        machine = self

        class Device(_Device):
            def __init__(self) -> None:
                super().__init__(machine)

        vars(module).update(Device=Device, LegacyPinnedMemoryResource=_Pinned, Buffer=_Buffer)
        return module

    def utils(self) -> ModuleType:
        module = ModuleType("cuda.core.utils")
        module.StridedMemoryView = _StridedMemoryView  # type: ignore[attr-defined]
        return module


class _Runtime:
    def __init__(self, machine: Machine, logger: Any) -> None:
        self._machine = machine
        self._logger = logger
        self.engine_host_code_allowed = True

    def deserialize_cuda_engine(self, data: bytes) -> _Engine | None:
        self._machine.deserialized += 1
        self._machine.host_code_allowed = self.engine_host_code_allowed
        if self._machine.broken:
            self._logger.log(1, "the plan\nis broken")
            return None
        return _Engine(self._machine)


class _Engine:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        assert machine.session is not None
        values = [*machine.session.get_inputs(), *machine.session.get_outputs()]
        self._names = [value.name for value in values]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = machine.profiles

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return 1000 * (profile_index + 1)

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig()

    def create_execution_context(self, how: str | _RuntimeConfig) -> _Context:
        """Either a strategy alone, which leaves the rest as it is by default, or a configuration."""
        config = how if isinstance(how, _RuntimeConfig) else None
        assert (config._strategy if config else how) == "user managed"
        return _Context(self._machine, config.dynamic_shapes_kernel_specialization_strategy if config else "lazy")


class _RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self._strategy = strategy


class _Context:
    def __init__(self, machine: Machine, kernels: str) -> None:
        self._machine = machine
        self._kernels = kernels
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0
        self._profile: int | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory
        self._memory = size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return "set_optimization_profile_async" not in self._machine.refusing

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None, "shapes belong to a profile"
        self._shapes[name] = shape
        return "set_input_shape" not in self._machine.refusing

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return "set_tensor_address" not in self._machine.refusing

    def is_stream_capturable(self, stream: int) -> bool:
        return self._machine.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._profile is not None
        assert self._memory >= 1000 * (self._profile + 1)
        addresses, profile = dict(self._addresses), self._profile
        if stream_handle in self._machine.capturing:
            assert self._kernels == "eager", "the graph would keep kernels that others are to replace"
            if "capture" in self._machine.refusing:
                return False
            self._machine.capturing[stream_handle].append(lambda: self._compute(addresses))
        else:
            self._machine.events.append(f"enqueue {profile}")
            self._compute(addresses)
        return True

    def _compute(self, addresses: dict[str, int]) -> None:
        session = self._machine.session
        assert session is not None
        feeds = {}
        for value in session.get_inputs():
            dtype = np.dtype(value.type.removeprefix("tensor(").removesuffix(")"))
            size = int(np.prod(self._shapes[value.name])) * dtype.itemsize
            raw = ctypes.string_at(addresses[value.name], size)
            feeds[value.name] = np.frombuffer(raw, dtype).reshape(self._shapes[value.name])
        names = [value.name for value in session.get_outputs()]
        for name, result in zip(names, session.run(names, feeds), strict=True):
            data = np.ascontiguousarray(result)
            ctypes.memmove(addresses[name], data.ctypes.data, data.nbytes)


class _Device:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.default_stream = machine.default_stream

    def set_current(self) -> None:
        self._machine.events.append("current")

    def allocate(self, size: int, *, stream: _Stream) -> _Buffer:
        if size > self._machine.free_memory:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed because it was unable to allocate enough")
        return _Buffer(size, stream)

    def create_stream(self) -> _Stream:
        return _Stream(self._machine)


class _Pinned:
    def allocate(self, size: int) -> _Buffer:
        return _Buffer(size)


class _Buffer:
    def __init__(self, size: int, stream: _Stream | None = None) -> None:
        self._stream = stream
        self._memory = np.full(max(size, 1), 0xA5, np.uint8)  # arbitrary old content
        self.handle, self.size = self._memory.ctypes.data, size

    @classmethod
    def from_handle(cls, ptr: int, size: int, *, owner: Any) -> _Buffer:
        part = cls(0)
        part._memory, part.handle, part.size, part._stream = owner, ptr, size, owner._stream
        assert size <= owner.size
        return part

    def copy_to(self, dst: _Buffer, *, stream: _Stream) -> _Buffer:
        assert self.size == dst.size
        assert dst._stream in (None, stream, *stream._waited)
        ctypes.memmove(dst.handle, self.handle, self.size)
        return dst


class _Stream:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waited: list[object] = []
        self.handle = id(self)

    def sync(self) -> None:
        assert self.handle not in self._machine.capturing
        self._machine.events.append("sync")

    def wait(self, event_or_stream: object) -> None:
        assert event_or_stream in ("event", self._machine.default_stream)
        self._waited.append(event_or_stream)
        self._machine.events.append("wait")

    def record(self) -> str:
        self._machine.events.append("record")
        return "event"

    def create_graph_builder(self) -> _GraphBuilder:
        return _GraphBuilder(self._machine, self)


class _GraphBuilder:
    def __init__(self, machine: Machine, stream: _Stream) -> None:
        self._machine, self._stream = machine, stream
        self._work: list[Any] = []

    def begin_building(self, mode: str) -> _GraphBuilder:
        assert mode == "thread_local"
        self._machine.capturing[self._stream.handle] = self._work
        self._machine.events.append("capture")
        return self

    def end_building(self) -> _GraphBuilder:
        del self._machine.capturing[self._stream.handle]
        return self

    def complete(self) -> _Graph:
        assert self._stream.handle not in self._machine.capturing
        return _Graph(self._machine, self._work)

    def close(self) -> None:
        self._machine.capturing.pop(self._stream.handle, None)


class _Graph:
    def __init__(self, machine: Machine, work: list[Any]) -> None:
        self._machine, self._work = machine, work

    def launch(self, stream: _Stream) -> None:
        assert stream.handle not in self._machine.capturing
        self._machine.events.append("launch")
        for step in self._work:
            step()


class _StridedMemoryView:
    @classmethod
    def from_buffer(cls, buffer: _Buffer, shape: tuple[int, ...], *, dtype: np.dtype[Any]) -> Any:
        assert buffer._stream is not None
        assert buffer._stream is buffer._stream._machine.default_stream
        return buffer._memory.view(dtype).reshape(shape)


REAL = {
    "Runtime": _Runtime,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "IRuntimeConfig": _RuntimeConfig,
    "Device": _Device,
    "LegacyPinnedMemoryResource": _Pinned,
    "Buffer": _Buffer,
    "Stream": _Stream,
    "GraphBuilder": _GraphBuilder,
    "Graph": _Graph,
    "StridedMemoryView": _StridedMemoryView,
}
"""The real class that each fake stands for."""
