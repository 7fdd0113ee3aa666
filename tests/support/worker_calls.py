"""What tests call in another process; it imports little, so that the process starts quickly."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.worker import WorkerError, stream


def squares(count: int, sleep_at: int = -1) -> Iterator[tuple[int, int]]:
    for number in range(count):
        if number == sleep_at:
            time.sleep(60)
        print("what a library prints is no answer", end="")
        yield os.getpid(), number**2


def failing(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def crashing() -> Iterator[int]:
    yield 1
    os._exit(7)


def imported(module: str) -> Iterator[tuple[int, bool]]:
    yield os.getpid(), module in sys.modules


def allocating(size: int) -> Iterator[int]:
    yield len(bytearray(size))


def entangled(size: int) -> Iterator[int]:
    """Leave memory to an error that refers to itself, by the frame that it came through."""
    memory = bytearray(size)
    try:
        raise ValueError(len(memory))
    except ValueError as error:
        kept = error
    yield os.getpid() if kept.args else 0


class OddError(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def odd() -> Iterator[int]:
    yield 1
    raise OddError("a", "b")


def accepts(image: bytes) -> None:
    """A check that every picture passes."""


def refuses(image: bytes) -> None:
    raise ImageError("refused")


def arrays(side: int) -> Iterator[list[np.ndarray]]:
    """Large and empty ones, without dimensions, of bytes in no order, by columns, and one twice."""
    large = np.arange(side * side, dtype=np.float32).reshape(side, side)
    yield [large, large[::2, ::3], large.T, np.array(1.5), np.empty((0, 3)), large.astype(">i2"), large]


@dataclass
class Reading:
    """Reads in another process, in whatever thread calls it, until that process ends.

    Attributes:
        started: Set once an answer has come.
        errors: What it ended with.
    """

    started: threading.Event = field(default_factory=threading.Event)
    errors: list[str] = field(default_factory=list)

    def __call__(self) -> None:
        try:
            for _ in stream(squares, 2, 1, seconds=60, memory=1 << 30):
                self.started.set()
        except WorkerError as error:
            self.errors.append(str(error))
