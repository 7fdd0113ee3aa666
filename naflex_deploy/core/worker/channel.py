"""Messages between two processes: pickled objects over a socket. Arrays travel apart, so that nothing copies them."""

from __future__ import annotations

import pickle
import socket
import time
from dataclasses import dataclass
from typing import Any

_SIZE = 8
"""Bytes of a number: how many parts a message has, and how long each is."""

_MOST = 10_000
"""Parts of a message; more is something else than a message."""


class WorkerError(Exception):
    """The process ended while it computed: it crashed, or was killed for its memory."""


@dataclass(frozen=True)
class Message:
    """A pickled object.

    Attributes:
        parts: The object without its arrays, and the content of each array (PEP 574).
    """

    parts: list[bytes | bytearray | memoryview]

    def value(self) -> Any:
        """The object. Its arrays use the memory of the message."""
        return pickle.loads(self.parts[0], buffers=self.parts[1:])


def pickled(value: object) -> Message:
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    return Message([content, *(array.raw() for array in arrays)])


class Channel:
    """One end of a socket between two processes.

    Args:
        connection: The socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: Message, seconds: float | None = None) -> None:
        """Send an object that is pickled already.

        Args:
            message: The object.
            seconds: Time for each of its parts.

        Raises:
            TimeoutError: The other end did not read it in time.
            OSError: The other end is closed.
        """
        self._connection.settimeout(seconds)
        first, *arrays = message.parts
        numbers = (len(message.parts), *map(len, message.parts))
        self._connection.sendall(b"".join((*(number.to_bytes(_SIZE, "little") for number in numbers), first)))
        for array in arrays:
            self._connection.sendall(array)

    def receive(self, seconds: float | None = None) -> Message:
        """The next object.

        Args:
            seconds: Time for all of it.

        Raises:
            TimeoutError: It did not come in time.
            EOFError: The other end is closed.
            OSError: It was closed in the middle of something.
            ValueError: What came is no message.
        """
        end = None if seconds is None else time.monotonic() + seconds
        (count,) = self._numbers(1, end)
        if not 0 < count <= _MOST:
            raise ValueError(f"expected a message of up to {_MOST} parts, found {count}")
        return Message([self._exactly(size, end) for size in self._numbers(count, end)])

    def _numbers(self, count: int, end: float | None) -> list[int]:
        found = self._exactly(count * _SIZE, end)
        return [int.from_bytes(found[place : place + _SIZE], "little") for place in range(0, len(found), _SIZE)]

    def _exactly(self, size: int, end: float | None) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        while rest:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            found = self._connection.recv_into(rest)
            if not found:
                raise EOFError
            rest = rest[found:]
        return content

    @property
    def closed(self) -> bool:
        """Whether the other end is closed, where it has nothing to say unless it is asked."""
        try:
            self._connection.setblocking(False)
            return not self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._connection.close()
