"""Memory for weights, whose pages the kernel may take back: a file without a name, of this process alone.

OpenVINO reads each weight once, when the first pack lays it out for a kernel, and keeps it beside that copy for as long
as the graph is used. Pages of a file need not stay in memory for that, and come back unchanged whenever they are read.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import numpy as np
import numpy.typing as npt

PERIOD = 0.004
"""Seconds between two releases while weights are laid out, in which OpenVINO reads a few MB."""


class Store:
    """Memory that is zero at first. Where there is no room for a file, it is ordinary memory.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        self._may_release = False
        with suppress(AttributeError, OSError), tempfile.TemporaryFile() as file:  # not every system has these calls
            os.posix_fallocate(file.fileno(), 0, max(1, size))
            self._memory = mmap.mmap(file.fileno(), max(1, size))
            self._may_release = hasattr(mmap, "MADV_DONTNEED")
            return
        self._memory = mmap.mmap(-1, max(1, size))

    def part(self, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """[size] bytes from an offset on, which share its memory."""
        return np.frombuffer(self._memory, np.uint8, size, offset)

    def release(self) -> None:
        """Give all pages back to the kernel."""
        if self._may_release:
            self._memory.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def released(self) -> Iterator[None]:
        """While this holds, pages are given back soon after they were read."""
        done = Event()

        def repeat() -> None:
            while not done.wait(PERIOD):
                self.release()

        thread = Thread(target=repeat, name="naflex-release", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.release()
