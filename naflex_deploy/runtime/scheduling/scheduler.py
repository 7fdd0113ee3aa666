"""Many callers, one engine: images come one by one from anywhere, run in packs, and each caller gets its own.

    submit ─▶ decode pool ─▶ PackQueue ─▶ form ─▶ run ─▶ Future
                                          └ the next pack is laid out while one runs

One thread more than packs run at once does it all: while one runs a pack, another lays out the next. It waits
for a full one, as until the engine is free a pack that is not full can still be filled.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.session import Session, SideBySide
from naflex_deploy.runtime.packing.isolation import EngineError, Results, run_isolated
from naflex_deploy.runtime.scheduling.admission import Admission, ClosedError
from naflex_deploy.runtime.scheduling.batch import Batch
from naflex_deploy.runtime.scheduling.outcome import ImageOutcome, PackReport
from naflex_deploy.runtime.scheduling.queue import DeadlineError, PackQueue, Policy, Ticket

Work = Patches | Callable[[], Patches]


class Scheduler:
    """Packs images of concurrent callers. Safe to call from any thread.

    Args:
        session: Runs packs.
        budget: Tokens that a pack holds.
        max_images: Images that a pack holds.
        prefix: Prefix tokens of the model.
        policy: When packs go, and how much may wait.
        runs: Packs running at once; 0 for as many as the session wants side by side, one for most.
        decoders: Where images are decoded; by default a thread a core, ended by `close`.
        on_pack: Called after every pack, from the thread that ran it.
        clock: In seconds.
        start: Start the threads. Without, `step` does their work, one pack a call.
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
        self._admission = Admission(self.policy.queue_tokens or 32 * budget)
        self._session, self._prefix = session, prefix
        self._worker = session.worker() if isinstance(session, SideBySide) and session.workers > 1 else session
        self._runs = runs or (session.workers if isinstance(session, SideBySide) else 1)
        self._decoders, self._own_decoders = decoders or ThreadPoolExecutor(cores(), "decode"), decoders is None
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
        """The most tokens that may be admitted at a time."""
        return self._admission.capacity

    @property
    def admitted_tokens(self) -> int:
        """Tokens decoding, waiting or running."""
        return self._admission.tokens

    @property
    def waiting_tokens(self) -> int:
        """Tokens decoded and waiting for a pack."""
        return self._queue.tokens

    def submit(
        self,
        works: Sequence[Work],
        outputs: Sequence[str] = ("pooled",),
        *,
        tokens: int = 0,
        deadline: float = math.inf,
        priority: int = 0,
    ) -> list[Future[ImageOutcome]]:
        """Admit images, all or none.

        Args:
            works: Patches, or functions that decode them, called in the decode pool.
            outputs: Names of those wanted.
            tokens: The most patches that a function returns; the budget where it is not given.
            deadline: On the scheduler's clock; an image not run by then fails with `DeadlineError`.
            priority: Each step is a head start of ``policy.head_start`` seconds.

        Returns:
            A future an image. Cancelling it takes the image out of the queue; `ImageError` and `EngineError`
            are the image's own.

        Raises:
            QueueFullError: There is no room, or the queue is longer than the deadline allows.
            ClosedError: `close` was called.
            ImageError: An image is larger than the budget.
            UsageError: Together they are larger than the queue.
        """
        now = self._clock()
        most = min(self._prefix + tokens, self._queue.budget) if tokens else self._queue.budget
        counts = [self._prefix + len(work) if isinstance(work, Patches) else most for work in works]
        if max(counts, default=0) > self._queue.budget:
            raise ImageError(f"expected at most {self._queue.budget} tokens an image, found {max(counts)}")
        order = now - priority * self.policy.head_start
        tickets = [Ticket(count, tuple(outputs), now, deadline, order) for count in counts]
        with self._changed:
            self.check(sum(counts), deadline - now)
            self._admission.tokens += sum(counts)
            self._open.update((ticket.future, ticket) for ticket in tickets)
            for ticket, work in zip(tickets, works, strict=True):
                if isinstance(work, Patches):
                    self._enqueue(ticket, work)
        for ticket, work in zip(tickets, works, strict=True):
            # Not bound to its ticket, which would refer back to it: no cycles, no work for the garbage collector.
            ticket.future.add_done_callback(self._left)
            if not isinstance(work, Patches):
                self._decoders.submit(self._decode, ticket, work)
        return [ticket.future for ticket in tickets]

    def check(self, tokens: int, time_left: float) -> None:
        """What `submit` checks first, to refuse before anything is spent on the images.

        Args:
            tokens: Of all images together.
            time_left: Seconds until their deadline. A part of it is kept for what the queue does not know of.

        Raises:
            QueueFullError, ClosedError, UsageError: See `submit`.
        """
        if self._closed:
            raise ClosedError("the server is shutting down", hint="send it to another one, or again later")
        self._admission.check(tokens, time_left)

    def close(self, timeout: float | None = None) -> bool:
        """Admit no more, run what is admitted, end the threads.

        Returns:
            Whether all was answered within ``timeout`` seconds; what was not fails with `ClosedError`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self._changed:
            left = list(self._open.values())
        closed = ClosedError("the server shut down before this was run", hint="send it again")
        self._answer([(ticket, closed) for ticket in left])
        if self._own_decoders:
            self._decoders.shutdown(wait=False, cancel_futures=True)
        return not left

    def step(self) -> Callable[[], None] | None:
        """Form the next pack if one is due, and return what runs it and answers."""
        return None if (batch := self._form()) is None else partial(self._run, batch)

    def _left(self, future: Future[ImageOutcome]) -> None:
        """A future is done; where its caller cancelled it, its room is free."""
        if future.cancelled():
            with self._changed:
                self._forget(self._open[future])

    def _forget(self, ticket: Ticket) -> None:
        """Give a ticket's room back, the lock being held."""
        del self._open[ticket.future]
        self._queue.remove(ticket)
        self._admission.tokens -= ticket.tokens
        if self._closed and not self._open:
            self._changed.notify_all()

    def _decode(self, ticket: Ticket, work: Callable[[], Patches]) -> None:
        if ticket.future.done():
            return
        if ticket.deadline <= self._clock():
            self._expire([ticket])
            return
        try:
            patches = work()
            if self._prefix + len(patches) > ticket.tokens:
                raise ImageError(f"expected at most {ticket.tokens - self._prefix} patches, found {len(patches)}")
        except BaseException as error:  # whatever a decoder does, its caller gets an answer
            self._answer([(ticket, error)])
            return
        with self._changed:
            if ticket.future in self._open:
                self._enqueue(ticket, patches)

    def _enqueue(self, ticket: Ticket, patches: Patches) -> None:
        """Line up an image, the lock being held."""
        exact = self._prefix + len(patches)
        self._admission.tokens -= ticket.tokens - exact
        ticket.tokens, ticket.patches = exact, patches
        self._queue.put(ticket, self._clock())
        # Threads that wait look again only where this changes what they wait for.
        if self._queue.images == 1 or self._queue.full or ticket.deadline < self._until:
            self._changed.notify()

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            self._run(batch)

    def _next(self) -> Batch | None:
        """Wait for a pack; ``None`` once closed and empty."""
        while (batch := self._form()) is None:
            with self._changed:
                if self._closed and not self._open:
                    return None
                now, idle = self._clock(), self._formed < self._runs
                until = self._queue.next_event(idle)
                if until > now and not self._queue.full:
                    self._until = until
                    self._changed.wait(None if until == math.inf else until - now)
        return batch

    def _form(self) -> Batch | None:
        with self._changed:
            now = self._clock()
            expired = self._queue.expired(now)
            room, idle = self._formed <= self._runs, self._formed < self._runs
            tickets = self._queue.take(now, idle=idle, claim=self._claim) if room else []
            if tickets:
                self._formed += 1
                self._packs += 1
                self._changed.notify()  # another thread, to look after those left
            number = self._packs - 1
        self._expire(expired)
        return Batch.of(number, tickets) if tickets else None

    def _expire(self, tickets: Sequence[Ticket]) -> None:
        self._answer([(ticket, DeadlineError.of(ticket, self._clock())) for ticket in tickets])

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
        except BaseException as error:  # nothing may end this thread, nor leave a caller without an answer
            results = results or batch.failed(error)
        finally:
            with self._changed:
                self._formed -= 1
                self._changed.notify()
        self._answer(batch.answers(results, started, finished))

    def _session_for(self, pack: Pack) -> Session:
        """A pack alone gets the whole machine; packs side by side get a core each, also those that soon will be."""
        alone = self._formed == 1 and self._admission.tokens <= pack.tokens
        return self._session if alone else self._worker

    def _claim(self, ticket: Ticket) -> bool:
        return ticket.future in self._open and ticket.future.set_running_or_notify_cancel()

    def _answer(self, answers: Sequence[tuple[Ticket, ImageOutcome | BaseException]]) -> None:
        """The first answer counts; a caller may have left in this moment."""
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
        # Small packs say little about the rate under load.
        if report.ran > 0 and 2 * report.tokens >= report.budget:
            self._admission.note(self._runs * report.tokens / report.ran)
        self._on_pack(report)
