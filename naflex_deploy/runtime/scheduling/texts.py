"""Share one text tower between many callers: texts of several requests run in one call, and each gets its vector.

    submit ─▶ line ─▶ encode, up to so many texts at once ─▶ Future

Texts have a queue of their own, so that they wait for no image.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.admission import ClosedError, QueueFullError
from naflex_deploy.runtime.scheduling.queue import DeadlineError

Float = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], tuple[Float, npt.NDArray[np.int64]]]
"""Maps texts to vectors [N, D] and the numbers of their tokens [N]."""

AT_ONCE = 64
CAPACITY = 4096
"""Texts that wait at a time."""


@dataclass(frozen=True, eq=False)
class TextOutcome:
    """One text's result.

    Attributes:
        vector: [D] float32.
        tokens: Number of its tokens, padding not counted.
    """

    vector: Float
    tokens: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    text: str
    deadline: float
    future: Future[TextOutcome]


class TextQueue:
    """Embeds texts of concurrent callers. Safe to call from any thread.

    Args:
        encode: Embeds some texts; called from one thread.
        capacity: Maximum number of texts that wait.
        on_run: Called with the number of texts after each call of ``encode``.
    """

    def __init__(
        self, encode: Encode, *, capacity: int = CAPACITY, on_run: Callable[[int], None] = lambda texts: None
    ) -> None:
        self.capacity = capacity
        self._encode, self._on_run = encode, on_run
        self._line: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._rate = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="texts", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of texts that wait."""
        return len(self._line)

    def submit(
        self, texts: Sequence[str], *, deadline: float = math.inf, goal: float = math.inf
    ) -> list[Future[TextOutcome]]:
        """Admit all of the texts, or none of them.

        Args:
            texts: To be embedded.
            deadline: Time on the clock of `time.monotonic`; a text that has not run by then fails with `DeadlineError`.
            goal: Time on the same clock by which they should run; where the line is longer, they are not admitted.

        Returns:
            One future per text, in order. Cancelling it takes the text out of the queue.

        Raises:
            QueueFullError: There is no room, or too little time.
            ClosedError: `close` was called.
        """
        with self._changed:
            if self._closed:
                raise ClosedError("the server is shutting down", hint="send the request to another server")
            wait = len(self._line) / self._rate if self._rate else 0.0
            if len(self._line) + len(texts) > self.capacity:
                held = f"the queue holds {len(self._line)} of {self.capacity} texts"
                raise QueueFullError(f"{held} and has no room for {len(texts)} more", wait / 2 or 1.0)
            # The rate is that of one run, which says little of a line that is no longer.
            if len(self._line) >= AT_ONCE and (over := time.monotonic() + wait - goal) > 0:
                raise QueueFullError(f"texts would wait {wait:.1f} s, {over:.1f} s too long", over)
            added = [_Waiting(text, deadline, Future()) for text in texts]
            self._line.extend(added)
            self._changed.notify()
        return [item.future for item in added]

    def close(self, timeout: float | None = None) -> bool:
        """Admit no more texts, and embed those that were admitted.

        Returns:
            Whether every text was answered within ``timeout`` seconds; the others fail with `ClosedError`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            left = list(self._line)
            self._line.clear()
        for item in left:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(ClosedError("the server shut down before the text ran", hint="send it again"))
        return not left and not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._line:
                    if self._closed:
                        return
                    self._changed.wait()
                taken = [self._line.popleft() for _ in range(min(AT_ONCE, len(self._line)))]
            self._run([item for item in taken if item.future.set_running_or_notify_cancel()])

    def _run(self, items: list[_Waiting]) -> None:
        started = time.monotonic()
        late = [item for item in items if item.deadline < started]
        for item in late:
            item.future.set_exception(DeadlineError("the deadline passed before the text ran"))
        items = [item for item in items if item.deadline >= started]
        if not items:
            return
        try:
            vectors, tokens = self._encode([item.text for item in items])
        except BaseException as error:  # no error may end this thread or leave a caller without an answer
            if len(items) > 1:  # alone, each shows whether it is at fault
                for item in items:
                    self._run([item])
                return
            items[0].future.set_exception(_failure(error))
            return
        seconds = time.monotonic() - started
        self._rate = len(items) / seconds if seconds > 0 else self._rate
        self._on_run(len(items))
        finite = [bool(np.isfinite(vector).all()) for vector in vectors]
        for item, vector, count, sound in zip(items, vectors, tokens.tolist(), finite, strict=True):
            if sound:
                item.future.set_result(TextOutcome(vector, count))
            else:
                item.future.set_exception(EngineError("the text tower returned NaN or infinity"))


def _failure(error: BaseException) -> EngineError:
    return EngineError(f"the text tower failed: {type(error).__name__}: {error}")
