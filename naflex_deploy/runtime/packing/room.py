"""Room for the pixels of pictures that are decoded side by side, for the sake of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from naflex_deploy.core.machine import cores, release_memory

EACH = 32_000_000
"""Pixels for each core: threads with ordinary photos never wait. After a larger picture, its memory is given back."""


class PixelRoom:
    """A number of pixels that pictures share. One that is larger than that is decoded alone.

    Args:
        pixels: The number.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for a picture of so many pixels, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._pixels)
            self._taken += pixels
        try:
            yield
        finally:
            if pixels > EACH:
                release_memory()
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


ROOM = PixelRoom(EACH * cores())
