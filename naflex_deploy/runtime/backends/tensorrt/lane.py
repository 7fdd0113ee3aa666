"""A lane runs one pack at a time on a GPU, with a stream and pinned and device memory of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.manifest import InputSpec, OutputSpec, Sizes, Variant
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.core.rows import lay_rows
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.backends.tensorrt.shapes import shape_of

Array = npt.NDArray[np.generic]


class Lane:
    """A stream and, for every tensor, a pinned and a device buffer of the largest size that it can have."""

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
        """Write every view of a pack into pinned memory, and start the copies to the device."""
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
        """Copy outputs to the host, and wait for them."""
        hosts = {name: self._host(name, self._outputs[name], sizes) for name in outputs}
        for name, host in hosts.items():
            self._part(self.device_buffers, name, host.nbytes).copy_to(
                self._part(self._host_buffers, name, host.nbytes), stream=self.stream
            )
        self.stream.sync()
        return {name: host[: self._rows(name, pack)].copy() for name, host in hosts.items()}

    def keep(self, outputs: Sequence[str], pack: Pack) -> dict[str, Any]:
        """Copy outputs into new device memory, and wait for the copies.

        A buffer is freed on the stream that it was allocated on. That is the default stream, on which callers usually
        read it too: if a caller releases the buffer right after starting a kernel there, the kernel still finishes
        before the memory is reused.
        """
        view = import_module("cuda.core.utils").StridedMemoryView
        default = self._device.default_stream
        specs = {name: self._outputs[name] for name in outputs}
        shapes = {name: (self._rows(name, pack), *map(int, spec.shape[1:])) for name, spec in specs.items()}
        buffers = {
            name: self._device.allocate(_bytes(shapes[name], spec.dtype), stream=default)
            for name, spec in specs.items()
        }
        self.stream.wait(default)
        for name, buffer in buffers.items():
            self._part(self.device_buffers, name, buffer.size).copy_to(buffer, stream=self.stream)
        self.stream.sync()
        return {
            name: view.from_buffer(buffer, shapes[name], dtype=np.dtype(specs[name].dtype))
            for name, buffer in buffers.items()
        }

    def _host(self, name: str, spec: InputSpec | OutputSpec, sizes: Sizes) -> Array:
        shape = shape_of(spec, sizes)
        array: Array = self._pinned[name][: _bytes(shape, spec.dtype)].view(spec.dtype).reshape(shape)
        return array

    def _rows(self, output: str, pack: Pack) -> int:
        return self._outputs[output].rows(pack.tokens, pack.images)

    def _part(self, buffers: dict[str, Any], name: str, size: int) -> Any:
        whole = buffers[name]
        return self._cuda.Buffer.from_handle(int(whole.handle), size, owner=whole)


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize
