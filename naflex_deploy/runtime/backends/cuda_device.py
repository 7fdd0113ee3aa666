"""Find the GPU through its driver alone, without the CUDA toolkit or a Python package."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MAJOR, MINOR = 75, 76
"""Values of CUdevice_attribute for the major and minor number of the compute capability."""


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: Product name.
        sm: Architecture, such as ``sm89``.
        memory: Size of its memory in bytes.
        driver: Newest CUDA version that the driver supports, such as ``13.0``.
    """

    name: str
    sm: str
    memory: int
    driver: str

    def __str__(self) -> str:
        return f"{self.name} ({self.sm}, {self.memory / 2**30:.0f} GiB, driver for CUDA {self.driver})"


def find() -> Device | str:
    """The first GPU, or the reason why there is none."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return f"there is no NVIDIA driver ({LIBRARY} is missing; CUDA calls it error 35)"
    if error := cuda.cuInit(0):
        return f"the NVIDIA driver does not start (CUDA error {error})"
    device, count, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if not count.value or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return "the NVIDIA driver sees no GPU"
    name, memory = ctypes.create_string_buffer(128), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    sm = "".join(str(_attribute(cuda, device, which)) for which in (MAJOR, MINOR))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Device(name.value.decode(errors="replace"), f"sm{sm}", memory.value, driver)


def _attribute(cuda: ctypes.CDLL, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value
