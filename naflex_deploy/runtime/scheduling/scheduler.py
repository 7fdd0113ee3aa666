"""Share one engine between many callers: images arrive one by one, run in packs, and each caller gets its results.

    submit ─▶ decode pool ─▶ PackQueue ─▶ form ─▶ run ─▶ Future
                                          └ the next pack is laid out while one runs

There is one thread more than packs run at once: while the others run packs, it lays out the next one. Until an
engine is free it takes only full packs, because a pack that is not full can still be filled.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.session import Session, SideBySide
from naflex_deploy.runtime.packing.isolation import EngineError, Results, run_isolated
from naflex_deploy.runtime.scheduling.admission import Admission, ClosedError
from naflex_deploy.runtime.scheduling.batch import Batch
from naflex_deploy.runtime.scheduling.decoders import Apart, Decoders, Work
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome, PackReport
from naflex_deploy.runtime.scheduling.queue import DeadlineError, PackQueue, Policy, Ticket


class Scheduler:
    """Packs images of concurrent callers. Safe to call from any thread.

    Args:
        session: Runs packs.
        budget: Maximum number of tokens per pack.
        max_images: Maximum number of images per pack.
        prefix: Number of prefix tokens of the model.
        policy: When packs are formed, and how much may wait.
        runs: Number of packs that run at once; 0 takes the number that the session prefers, usually 1.
        decoders: Pool in which images are decoded. Default: one thread per core, which `close` ends.
        on_pack: Called after every pack, from the thread that ran it.
        clock: Returns the time in seconds.
        start: Whether to start the threads. Without them, each call of `step` forms one pack.
    """

    def __init__(
        self,
        session: Session,
        *,
        budget: int,
        max_images: int,
        prefix: int = 0,
        policy: Policy | None = None,
        runs: int = 0,
        decoders: Executor | None = None,
        on_pack: Callable[[PackReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
        start: bool = True,
    ) -> None:
        self.policy = policy or Policy()
        self._admission = Admission(self.policy.queue_tokens or 32 * budget, cores())
        self._session, self._prefix = session, prefix
        self._worker = session.worker() if isinstance(session, SideBySide) and session.workers > 1 else session
        self._runs = runs or (session.workers if isinstance(session, SideBySide) else 1)
        self.decoders = Decoders(decoders)
        self._on_pack, self._clock = on_pack, clock
        self._queue = PackQueue(budget, max_images, self.policy)
        self._changed = threading.Condition()
        self._engine = threading.Semaphore(self._runs)
        self._open: dict[Future[ImageOutcome], Ticket] = {}
        self._formed = self._packs = 0
        self._until, self._closed = math.inf, False
        count = self._runs + 1 if start else 0
        self._threads = [threading.Thread(target=self._serve, name=f"pack-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def capacity(self) -> int:
        """Maximum number of tokens that may be admitted at a time."""
        return self._admission.capacity

    @property
    def admitted_tokens(self) -> int:
        """Number of tokens that are decoding, waiting or running."""
        return self._admission.tokens

    @property
    def waiting_tokens(self) -> int:
        """Number of tokens that are decoded and wait for a pack."""
        return self._queue.tokens

    def submit(
        self,
        works: Sequence[Work],
        outputs: Sequence[str] = ("pooled",),
        *,
        tokens: int = 0,
        deadline: float = math.inf,
        goal: float = math.inf,
        priority: int = 0,
    ) -> list[Future[ImageOutcome]]:
        """Admit all of the images, or none of them.

        Args:
            works: Patches, or functions that return them, which run in the decode pool.
            outputs: Names of the outputs to compute.
            tokens: Maximum number of patches that a function returns; 0 stands for the budget.
            deadline: Time on the scheduler's clock; an image that has not run by then fails with `DeadlineError`.
            goal: Time by which the images should be answered; they are refused where the queue is too long for it.
            priority: Each step is a head start of ``policy.head_start`` seconds.

        Returns:
            One future per image. Cancelling it takes the image out of the queue. `ImageError` and `EngineError` are
            set on the future of the image that failed.

        Raises:
            QueueFullError: There is no room, or the queue is longer than the deadline allows.
            ClosedError: `close` was called.
            ImageError: An image is larger than the budget.
            UsageError: The images together are larger than the whole queue.
        """
        now = self._clock()
        most = min(self._prefix + tokens, self._queue.budget) if tokens else self._queue.budget
        counts = [self._prefix + len(work) if isinstance(work, Patches) else most for work in works]
        if max(counts, default=0) > self._queue.budget:
            raise ImageError(f"expected at most {self._queue.budget} tokens per image, found {max(counts)}")
        order = now - priority * self.policy.head_start
        tickets = [Ticket(count, tuple(outputs), now, deadline, order) for count in counts]
        with self._changed:
            self.check(sum(counts), min(deadline, goal) - now, len(counts))
            self._admission.tokens += sum(counts)
            self._open.update((ticket.future, ticket) for ticket in tickets)
            for ticket, work in zip(tickets, works, strict=True):
                if isinstance(work, Patches):
                    self._enqueue(ticket, work)
                else:
                    self._admission.decoding += 1
        for ticket, work in zip(tickets, works, strict=True):
            # The callback does not hold the ticket, which holds the future: a cycle would need garbage collection.
            ticket.future.add_done_callback(self._left)
            if not isinstance(work, Patches):
                self.decoders.submit(self._decode, ticket, work)
        return [ticket.future for ticket in tickets]

    def check(self, tokens: int, time_left: float, images: int = 1) -> None:
        """Check for room as `submit` does, so that a request can be refused before its images cost anything.

        The arguments and errors are those of `Admission.check`; after `close`, the error is `ClosedError`.
        """
        if self._closed:
            raise ClosedError("the server is shutting down", hint="send the request to another server, or again later")
        self._admission.check(tokens, time_left, images)

    def close(self, timeout: float | None = None) -> bool:
        """Admit no more images, run those that were admitted, and end the threads.

        Returns:
            Whether every image was answered within ``timeout`` seconds; the others fail with `ClosedError`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self._changed:
            left = list(self._open.values())
        closed = ClosedError("the server shut down before the image ran", hint="send the request again")
        self._answer([(ticket, closed) for ticket in left])
        self.decoders.shutdown()
        return not left

    def step(self) -> Callable[[], None] | None:
        """Form the next pack if one is due, and return a function that runs it and answers its callers."""
        return None if (batch := self._form()) is None else partial(self._run, batch)

    def _left(self, future: Future[ImageOutcome]) -> None:
        """Called when a future is done. Frees the room of an image whose caller cancelled it."""
        if future.cancelled():
            with self._changed:
                self._forget(self._open[future])

    def _forget(self, ticket: Ticket) -> None:
        """Free a ticket's room. The caller holds the lock."""
        del self._open[ticket.future]
        self._queue.remove(ticket)
        self._admission.tokens -= ticket.tokens
        if self._closed and not self._open:
            self._changed.notify_all()

    def _decode(self, ticket: Ticket, work: Callable[[], Patches | Apart], apart: bool = False) -> None:
        started = self._clock()
        try:
            found = None if ticket.future.done() else ticket.decoded(work, self._prefix, started)
        except BaseException as error:  # the caller gets an answer, whatever the decoder raises
            self._answer([(ticket, error)])
            found = None
        with self._changed:
            self._admission.decoding -= not apart
            if isinstance(found, Patches) and not apart:
                self._admission.note_decoding(self._clock() - started)
            if isinstance(found, Patches) and ticket.future in self._open:
                self._enqueue(ticket, found)
            else:
                self._wake()
        if isinstance(found, Apart):
            self.decoders.submit_apart(self._decode, ticket, found.rest, True)

    def _enqueue(self, ticket: Ticket, patches: Patches) -> None:
        """Add a decoded image to the queue. The caller holds the lock."""
        exact = self._prefix + len(patches)
        self._admission.tokens -= ticket.tokens - exact
        ticket.tokens, ticket.patches = exact, patches
        self._queue.put(ticket, self._clock())
        self._wake()

    def _wake(self) -> None:
        """Wake a thread, only where what the threads wait for has changed. The caller holds the lock."""
        waiting, queue = self._waiting, self._queue
        if queue.images == 1 or queue.full(*waiting) or queue.next_event(*waiting) < self._until:
            self._changed.notify()

    @property
    def _waiting(self) -> tuple[int, float]:
        """Number of engines that wait for a pack, and how many seconds they wait for images that are being decoded."""
        return max(0, self._runs - self._formed), self._admission.decode_wait(self._runs * self._queue.budget)

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            self._run(batch)

    def _next(self) -> Batch | None:
        """Wait for a pack. Returns ``None`` once the scheduler is closed and empty."""
        while (batch := self._form()) is None:
            with self._changed:
                if self._closed and not self._open:
                    return None
                now, waiting = self._clock(), self._waiting
                until = self._queue.next_event(*waiting)
                if until > now and not self._queue.full(*waiting):
                    self._until = until
                    self._changed.wait(None if until == math.inf else until - now)
        return batch

    def _form(self) -> Batch | None:
        with self._changed:
            now = self._clock()
            expired = self._queue.expired(now)
            tickets = self._queue.take(now, *self._waiting, self._claim) if self._formed <= self._runs else []
            if tickets:
                self._formed += 1
                self._packs += 1
                self._changed.notify()  # another thread takes care of the remaining images
            number = self._packs - 1
        self._answer([(ticket, DeadlineError.of(ticket, now)) for ticket in expired])
        return Batch.of(number, tickets) if tickets else None

    def _run(self, batch: Batch) -> None:
        started = finished = self._clock()
        results: Sequence[Results | EngineError] = []
        try:
            pack = Pack.of(batch.images, prefix=self._prefix)
            laid_out = self._clock() - started
            with self._engine:
                started = self._clock()
                results = run_isolated(self._session_for(pack), pack, batch.images, batch.outputs)
                finished = self._clock()
            self._note(batch.report(pack, self._queue.budget, laid_out, started, finished))
        except BaseException as error:  # no error may end this thread or leave a caller without an answer
            results = results or batch.failed(error)
        finally:
            with self._changed:
                self._formed -= 1
                self._changed.notify()
        self._answer(batch.answers(results, started, finished))

    def _session_for(self, pack: Pack) -> Session:
        """A pack that runs alone uses all cores; one with others running, or waiting to run, uses one core."""
        alone = self._formed == 1 and self._admission.tokens <= pack.tokens
        return self._session if alone else self._worker

    def _claim(self, ticket: Ticket) -> bool:
        return ticket.future in self._open and ticket.future.set_running_or_notify_cancel()

    def _answer(self, answers: Sequence[tuple[Ticket, ImageOutcome | BaseException]]) -> None:
        """Set the results of futures. The first answer counts, and a caller may have cancelled just now."""
        with self._changed:
            first = [(t, a) for t, a in answers if t.future in self._open and (t.future.running() or self._claim(t))]
            for ticket, _ in first:
                self._forget(ticket)
        for ticket, answer in first:
            if isinstance(answer, BaseException):
                ticket.future.set_exception(answer)
            else:
                ticket.future.set_result(answer)

    def _note(self, report: PackReport) -> None:
        self._admission.note(self._runs * report.tokens, report.ran, self._runs * report.budget)
        self._on_pack(report)
