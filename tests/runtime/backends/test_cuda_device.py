"""The detection of the GPU, with a fake driver of a few functions."""

from __future__ import annotations

import ctypes
import re

import pytest

from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.cuda_device import Device


class Driver:
    """The functions of libcuda that the code calls."""

    def __init__(self, error: int = 0, count: int = 1) -> None:
        self.error, self.count = error, count

    def cuInit(self, flags: int) -> int:
        return self.error

    def cuDeviceGetCount(self, count: ctypes._CArgObject) -> int:
        count._obj.value = self.count  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, device: ctypes._CArgObject, index: int) -> int:
        device._obj.value = 7  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetName(self, name: ctypes.Array[ctypes.c_char], length: int, device: ctypes.c_int) -> int:
        assert device.value == 7
        name.value = b"NVIDIA H200"[: length - 1]
        return 0

    def cuDeviceTotalMem_v2(self, memory: ctypes._CArgObject, device: ctypes.c_int) -> int:
        memory._obj.value = 141 * 2**30  # type: ignore[attr-defined]
        return 0

    def cuDriverGetVersion(self, version: ctypes._CArgObject) -> int:
        version._obj.value = 12_090  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, value: ctypes._CArgObject, which: int, device: ctypes.c_int) -> int:
        value._obj.value = {75: 9, 76: 0}[which]  # type: ignore[attr-defined]
        return 0


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert cuda_device.find() == Device("NVIDIA H200", "sm90", 141 * 2**30, "12.9")
    assert str(cuda_device.find()) == "NVIDIA H200 (sm90, 141 GiB, driver for CUDA 12.9)"


def missing(name: str) -> Driver:
    raise OSError("cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (missing, "there is no NVIDIA driver .*error 35"),
        (lambda name: Driver(error=100), r"does not start \(CUDA error 100\)"),
        (lambda name: Driver(count=0), "sees no GPU"),
    ],
)
def test_why_there_is_none_is_told(monkeypatch: pytest.MonkeyPatch, load: object, said: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", load)
    found = cuda_device.find()
    assert isinstance(found, str)
    assert re.search(said, found)
