"""Messages between two processes: pickled objects over a socket."""

from __future__ import annotations

import pickle
import socket
import time

_SIZE = 8
"""Bytes before a message that say how long it is."""


class WorkerError(Exception):
    """The process ended while it computed: it crashed, or was killed for its memory."""


def pickled(value: object) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


class Channel:
    """One end of a socket between two processes.

    Args:
        connection: The socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, content: bytes, seconds: float | None = None) -> None:
        """Send an object that is pickled already.

        Args:
            content: The object.
            seconds: Time for it.

        Raises:
            TimeoutError: The other end did not read it in time.
            OSError: The other end is closed.
        """
        self._connection.settimeout(seconds)
        self._connection.sendall(len(content).to_bytes(_SIZE, "little") + content)

    def receive(self, seconds: float | None = None) -> bytearray:
        """The next object, pickled.

        Args:
            seconds: Time for all of it.

        Raises:
            TimeoutError: It did not come in time.
            EOFError: The other end is closed.
            OSError: It was closed in the middle of something.
        """
        end = None if seconds is None else time.monotonic() + seconds
        size = int.from_bytes(self._exactly(_SIZE, end), "little")
        return self._exactly(size, end)

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
