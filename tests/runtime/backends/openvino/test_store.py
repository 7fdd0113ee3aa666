"""Memory whose pages the kernel may take back."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from naflex_deploy.runtime.backends.openvino.store import Store

SIZE = 2**22


def resident(store: Store) -> int:
    """KiB of its pages that are in memory."""
    address = store.part(0, 1).ctypes.data
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        start, end = (int(part, 16) for part in block.split(" ")[0].split("-"))
        if start <= address < end:
            return int(re.search(r"Rss: +(\d+)", block)[1])  # type: ignore[index]
    raise AssertionError("it is not mapped")


def test_pages_leave_memory_and_come_back() -> None:
    store = Store(SIZE)
    values = store.part(4096, SIZE - 4096)
    values[:] = np.arange(len(values), dtype=np.uint8)
    assert resident(store) > SIZE / 2048
    store.release()
    assert resident(store) <= 4
    with store.released():
        assert np.array_equal(values, np.arange(len(values), dtype=np.uint8))
    assert resident(store) <= 4


def test_without_room_for_a_file_it_is_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    store = Store(SIZE)
    store.part(0, 4)[:] = 1, 2, 3, 4
    with store.released():
        store.release()
    assert store.part(0, 4).tolist() == [1, 2, 3, 4]
