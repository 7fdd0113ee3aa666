"""Run a stream of images pack by pack, while the next images are decoded.

images ─▶ prepare_ahead (thread pool) ─▶ window ─▶ packs ─▶ session, or its workers side by side ─▶ results
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.worker import end_all
from naflex_deploy.runtime.backends.session import Session, SideBySide
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.packing.grouping import PackMaker
from naflex_deploy.runtime.packing.isolation import EngineError, run_isolated
from naflex_deploy.runtime.packing.prefetch import prefetch
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result

Image = Source | Input | Patches
Images = Iterable[Image]

WINDOW = 4
"""Number of packs' worth of images that are packed together. More fill packs better; fewer take less memory."""

WHOLE = (str, Path, bytes, bytearray, memoryview, np.ndarray, Patches, Input)
"""Types of sources that any thread may read."""


@contextmanager
def threads() -> Iterator[Executor]:
    """Threads for one stream, which end with it. Where it is interrupted, so do the processes that they wait for."""
    with ThreadPoolExecutor(cores(), "naflex") as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            end_all()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepare_ahead(
    prepare: Callable[[int, Image], Iterable[list[Prepared]]], images: Images, pool: Executor
) -> Iterator[list[Prepared]]:
    """Yield every frame of every image in order, while the first frames of the next images are prepared.

    Args:
        prepare: Maps the number of an image and the image to its frames, each a list of the images that it became.
    """

    def begin(item: tuple[int, Image]) -> tuple[list[Prepared] | None, Iterator[list[Prepared]]]:
        frames = iter(prepare(*item))
        # A stream or a lazy Pillow image is read in this thread, because the caller may have passed it twice.
        return (next(frames, None) if isinstance(item[1], WHOLE) else None), frames

    for _, (first, frames) in prefetch(pool, begin, enumerate(images), depth=cores() + 1):
        if first is not None:
            yield first
        yield from frames


class PackStream:
    """Runs one stream.

    A stream that fills a window has work for every core, so its packs run side by side. The first pack of a shorter
    stream uses all cores, unless the stream divides evenly and the session for packs side by side is loaded already.

    Args:
        session: Runs packs.
        maker: Lays images out in packs.
        outputs: Names of the outputs to compute.
        pool: Runs packs side by side.
    """

    def __init__(self, session: Session, maker: PackMaker, outputs: Sequence[str], pool: Executor) -> None:
        self._session, self._maker, self._outputs, self._pool = session, maker, outputs, pool
        self._side_by_side = session if isinstance(session, SideBySide) else None
        self._running: deque[Future[list[Result]]] = deque()
        self._packs = 0

    def results(self, frames: Iterable[list[Prepared]]) -> Iterator[Result]:
        """Yield one result per image as packs finish.

        Args:
            frames: Lists of the images of each frame; may be endless.

        Raises:
            EngineError: The engine fails on every image, even on a blank one.
        """
        workers = self._side_by_side.workers if self._side_by_side else 1
        enough = max(WINDOW, 2 * workers) * self._maker.tokens
        window: list[Prepared] = []
        pending = 0
        for frame in frames:
            yield from (prepared.result for prepared in frame if prepared.patches is None)
            images = [prepared for prepared in frame if prepared.patches is not None]
            window += images
            pending += self._maker.taken(images)
            if pending >= enough:
                *full, window = self._maker.packs(window)
                for members in full:
                    yield from self._start(members)
                pending = self._maker.taken(window)
        yield from self._last(window, workers)
        for future in self._running:
            yield from future.result()

    def _last(self, window: Sequence[Prepared], workers: int) -> Iterator[Result]:
        """Run the images that remain at the end of the stream."""
        loaded = self._side_by_side is not None and self._side_by_side.worker_is_loaded
        even = self._maker.even_packs(window, workers) if workers > 1 and (self._packs or loaded) else None
        for members in even or self._maker.packs(window):
            if not self._packs and even is None:
                yield from self._run(self._session, members, self._next_number())
            else:
                yield from self._start(members)

    def _start(self, members: Sequence[Prepared]) -> Iterator[Result]:
        """Run a pack side by side with others. Yields the results of an earlier pack where too many are running."""
        number = self._next_number()
        if self._side_by_side is None:
            yield from self._run(self._session, members, number)
            return
        if len(self._running) > self._side_by_side.workers:
            yield from self._running.popleft().result()
        worker = self._side_by_side.worker()
        self._running.append(self._pool.submit(lambda: list(self._run(worker, members, number))))

    def _run(self, session: Session, members: Sequence[Prepared], number: int) -> Iterator[Result]:
        pack = self._maker.pack(members)
        images = [item.patches for item in members if item.patches]
        results = run_isolated(session, pack, images, self._outputs)
        for item, start, found in zip(members, pack.offsets.tolist(), results, strict=False):
            if isinstance(found, EngineError):
                error = EngineError(f"{item.result.name}: {found.message}", hint=found.hint)
                yield replace(item.result, error=error)
            else:
                yield replace(item.result, pack=number, start=start, pack_tokens=pack.tokens, outputs=found)

    def _next_number(self) -> int:
        self._packs += 1
        return self._packs - 1
