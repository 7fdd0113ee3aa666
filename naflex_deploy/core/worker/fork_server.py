"""Where processes come from: on Linux they are forks of a process that has one thread and has imported what they need.

A fork costs a few milliseconds, a new interpreter that imports NumPy half a second, and a fork of a process with other
threads may stop for ever. A command forks the fork server from itself before it has threads; anything else, such as a
program that uses this as a library, starts it when the first process is needed. `multiprocessing` has a fork server
too, but starts an interpreter for it in any case, and has one for the whole program.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from naflex_deploy.core.worker.channel import Channel, WorkerError, pickled
from naflex_deploy.core.worker.process import apart, end_with, serve_requests

FORKS = sys.platform == "linux"
"""Whether forks are safe: libraries of other systems start threads when they are imported."""

PATIENCE = 60.0
"""Seconds within which the fork server has imported what a process needs."""


class Process(Protocol):
    """A process that answers requests.

    Attributes:
        channel: To it.
    """

    channel: Channel

    def end(self) -> int:
        """End it at once, and return its exit code; that of a signal is negative."""


class _Spawned:
    """A new interpreter."""

    def __init__(self, memory: int, nice: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _interpreter("worker", theirs, str(memory), str(nice))
        self.channel = Channel(ours)

    def end(self) -> int:
        self._process.kill()
        return self._process.wait()


class _Forked:
    """A fork of the fork server."""

    def __init__(self, server: _Server, memory: int, nice: int, modules: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._number = server.asked(("fork", memory, nice, modules), theirs)
        if self._number < 0:
            raise WorkerError(f"no process could be started: {os.strerror(-self._number)}")
        self._server = server
        self.channel = Channel(ours)

    def end(self) -> int:
        with contextlib.suppress(OSError, EOFError):
            return self._server.asked(("end", self._number))
        return -signal.SIGKILL  # its processes end with the fork server


class _Server:
    """The fork server, as this process sees it."""

    def __init__(self, connection: socket.socket, number: int, wait: Callable[[], object]) -> None:
        self._connection = connection
        self._channel = Channel(connection)
        self._number, self._wait = number, wait
        self._lock = threading.Lock()

    def asked(self, request: tuple[object, ...], *sockets: socket.socket) -> int:
        """The answer to a request.

        Raises:
            OSError, EOFError: The fork server has ended, or does not answer.
        """
        with self._lock:
            self._channel.send(pickled(request), PATIENCE)
            if sockets:
                socket.send_fds(self._connection, [b"s"], [each.fileno() for each in sockets])
            return int(self._channel.receive(PATIENCE).value())

    def close(self) -> None:
        """Let it end with its processes."""
        self._connection.close()

    def end(self, *, at_once: bool = False) -> None:
        """End it and its processes."""
        self.close()
        if at_once:
            os.kill(self._number, signal.SIGKILL)
        self._wait()


_server: _Server | None = None
_lock = threading.Lock()


def start(memory: int, nice: int, modules: tuple[str, ...]) -> Process:
    """A new process.

    Args:
        memory, nice, modules: See `Worker`.
    """
    if not FORKS:
        return _Spawned(memory, nice)
    global _server
    for _ in range(2):
        with _lock:
            server = _server = _server or _started()
        try:
            return _Forked(server, memory, nice, modules)
        except (OSError, EOFError):  # something ended it
            with _lock:
                if _server is server:
                    _server.end(at_once=True)
                    _server = None
    return _Spawned(memory, nice)


def fork_ahead() -> None:
    """Fork the fork server from this process, which must have no other thread: for commands, when they begin."""
    global _server
    if not FORKS or _server is not None or threading.active_count() > 1:
        return
    ours, theirs = socket.socketpair()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # otherwise both would print it
    number = os.fork()
    if not number:
        ours.close()
        _serve_and_exit(theirs)
    theirs.close()
    _server = _Server(ours, number, lambda: os.waitpid(number, 0))


def end() -> None:
    """End the fork server."""
    global _server
    with _lock:
        server, _server = _server, None
    if server is not None:
        server.end()


def _started() -> _Server:
    ours, theirs = socket.socketpair()
    with theirs:
        process = _interpreter("server", theirs)
    return _Server(ours, process.pid, process.wait)


def _interpreter(role: str, connection: socket.socket, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "naflex_deploy.core.worker", role, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdin=connection.fileno(), env=environment)


def _forget() -> None:
    """In a fork of this process, whose parent keeps the fork server: it must see its end."""
    global _server, _lock
    _lock = threading.Lock()
    if _server is not None:
        _server.close()
        _server = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _serve_and_exit(connection: socket.socket) -> None:
    """The life of a fork of a command, which must not return to what the command does."""
    try:
        serve(connection)
    finally:
        os._exit(0)


def serve(connection: socket.socket) -> None:
    """Fork processes and end them, as asked, until nobody asks any more; they then end too."""
    apart()
    channel = Channel(connection)
    children: set[int] = set()
    with contextlib.suppress(OSError, EOFError):
        while True:
            match channel.receive().value():
                case ("fork", int(memory), int(nice), tuple(modules)):
                    _, (descriptor, *_), *_ = socket.recv_fds(connection, 1, 1)
                    _import(modules)
                    answer = _fork(socket.socket(fileno=descriptor), connection, memory, nice)
                    children |= {answer} if answer > 0 else set()
                case ("end", int(child)):
                    answer = _ended(child)
                    children.discard(child)
            channel.send(pickled(answer))
    for child in children:
        _ended(child)


def _import(modules: tuple[str, ...]) -> None:
    gc.disable()  # nothing of it is garbage, and what is not looked at stays shared with the forks
    for module in modules:
        with contextlib.suppress(Exception):  # whoever needs it says what is wrong
            importlib.import_module(module)
    gc.freeze()
    gc.enable()


def _fork(to: socket.socket, server: socket.socket, memory: int, nice: int) -> int:
    """The number of a new process that answers requests of a socket, or a negative number of an error."""
    parent = os.getpid()
    with to:
        try:
            child = os.fork()
        except OSError as error:
            return -(error.errno or errno.EAGAIN)
        if child:
            return child
        code = 1
        try:
            end_with(parent)
            server.close()
            serve_requests(to, memory, nice)
            code = 0
        finally:
            os._exit(code)


def _ended(child: int) -> int:
    """The exit code of a process, which nothing else waits for, so that its number is still its own."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
