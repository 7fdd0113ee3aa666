"""The process: it answers requests, and ends with whoever asks, even in the middle of a call."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time

from naflex_deploy.core.worker.channel import Channel, Message, WorkerError, pickled

_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""

_M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""


def serve_requests(connection: socket.socket, memory: int, nice: int) -> None:
    """Bound this process, and answer requests until their socket is closed.

    Args:
        connection: From which requests come.
        memory: Maximum number of bytes that it may allocate.
        nice: By how much its priority is lowered.
    """
    os.nice(nice)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    _give_back()
    channel = Channel(connection)
    with contextlib.suppress(EOFError, OSError):  # nobody asks any more
        while True:
            _call(channel, channel.receive())
            gc.collect()  # an error holds the frames that it came through, and these what was too large


def _give_back() -> None:
    """Have blocks from 1 MiB on go back to the system when they are freed, so that each call has all of the memory.

    Otherwise glibc keeps more and more of them: its threshold grows with the blocks that are freed.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(AttributeError):  # not every C library has it
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _call(channel: Channel, request: Message) -> None:
    try:
        function, arguments = request.value()
        del request
        channel.send(pickled(("begun", None)))
        for item in function(*arguments):
            channel.send(pickled(("item", item)))
        last = pickled(("end", None))
    except Exception as error:
        last = _as_answer(error)
    channel.send(last)


def _as_answer(error: Exception) -> Message:
    """An error as an answer; as text where its class cannot be pickled."""
    try:
        content = pickled(("error", error))
        content.value()
    except Exception:
        return pickled(("error", WorkerError(f"{type(error).__name__}: {error}")))
    return content


def apart() -> None:
    """Take a process out of the way of the one that started it: of its signals, and of what it prints."""
    os.dup2(2, 1)  # what a library prints is no result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end_with(parent: int) -> None:
    """End this process as soon as its parent, whose number is given, has ended."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)
