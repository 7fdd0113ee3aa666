"""Run the images, documents and texts of one request."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive

from naflex_deploy.runtime.scheduling.outcome import ImageOutcome
from naflex_deploy.runtime.scheduling.texts import TextOutcome
from naflex_deploy.serving.http.infer import infer
from naflex_deploy.serving.http.limits import Limits, Sent
from naflex_deploy.serving.http.models import Frame, Model
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.v1.documents import Page, read_pages
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.shapes import images_only


@dataclass(frozen=True, eq=False)
class Row:
    """What was computed for an input, or for a page of one.

    Attributes:
        item: The input.
        page: Number of the page of a document, from 1; ``None`` of other inputs.
        outcome: The result.
        preview: See `Page`.
    """

    item: Item
    page: int | None
    outcome: ImageOutcome | TextOutcome
    preview: str | None = None

    @property
    def index(self) -> int:
        """Number of the input, from 0."""
        return self.item.index

    @property
    def tokens(self) -> int:
        """Number of tokens, prefix tokens and padding not counted."""
        outcome = self.outcome
        return outcome.tokens if isinstance(outcome, TextOutcome) else outcome.grid_hw[0] * outcome.grid_hw[1]

    @property
    def nbytes(self) -> int:
        """Size of what was computed."""
        outcome = self.outcome
        if isinstance(outcome, TextOutcome):
            return outcome.vector.nbytes
        return sum(values.nbytes for values in outcome.outputs.values())


async def run(
    receive: Receive,
    model: Model,
    items: Sequence[Item],
    outputs: Sequence[str],
    limits: Limits,
    *,
    seconds: float | None = None,
    priority: int = 0,
    preview: bool = False,
) -> list[Row]:
    """Run the items of a request side by side, and wait for all of them.

    Args:
        receive, model, outputs, limits, seconds, priority: See `infer`.
        preview: See `read_pages`.
        items: In any order of kinds.

    Returns:
        A row for each item, in order; several for a document of several pages.

    Raises:
        Problem: The first item that failed, or a queue, caused an error; ``param`` names the item.
        ClientDisconnect: The sender left.
    """
    items = fitting(model, items)
    texts = [item for item in items if isinstance(item.content, str)]
    if len(texts) == len(items):
        return await _texts(model, texts, limits, seconds)
    others = [item for item in items if not isinstance(item.content, str)]
    if not texts:
        return await _images(receive, model, others, outputs, limits, seconds, priority, preview)
    async with asyncio.TaskGroup() as group:
        of_texts = group.create_task(_settled(_texts(model, texts, limits, seconds)))
        of_images = group.create_task(
            _settled(_images(receive, model, others, outputs, limits, seconds, priority, preview))
        )
    rows: list[Row] = []
    for found in (of_images.result(), of_texts.result()):
        if isinstance(found, Exception):
            raise found
        rows += found
    return sorted(rows, key=lambda row: (row.index, row.page or 0))


def fitting(model: Model, items: Sequence[Item]) -> Sequence[Item]:
    """The items as the model takes them, before anything is computed.

    Raises:
        Problem: There is a text, and the bundle has no text tower; or a page of what has none is asked for.
    """
    if model.texts is None:
        items = images_only(items, model.without_texts)
    for item in items:
        if item.page is not None and not item.is_document:
            what = "expected a PDF document or a TIFF file, as `page` asks for a page"
            raise Problem(422, "bad_image", what, hint="leave `page` out", param=item.place)
    return items


async def _settled(rows: Coroutine[Any, Any, list[Row]]) -> list[Row] | Exception:
    """The rows, or the error, so that a task group does not wrap it."""
    try:
        return await rows
    except Exception as error:
        return error


async def _texts(model: Model, items: Sequence[Item], limits: Limits, seconds: float | None) -> list[Row]:
    assert model.texts is not None
    allowed = min(seconds or math.inf, limits.deadline_seconds)
    now = time.monotonic()
    try:
        futures = model.texts.submit(
            [str(item.content) for item in items], deadline=now + allowed, goal=now + limits.goal(seconds)
        )
    except Exception as error:
        raise problem_of(error) from error
    try:
        async with asyncio.timeout(allowed + 0.05):  # the queue keeps the deadline; this is for a tower that hangs
            found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    except TimeoutError:
        raise Problem(504, "deadline", f"the request was not answered within {allowed:g} s") from None
    rows = []
    for item, outcome in zip(items, found, strict=True):
        if isinstance(outcome, BaseException):
            raise problem_of(outcome, item.place) from outcome
        rows.append(Row(item, None, outcome))
    return rows


async def _images(
    receive: Receive,
    model: Model,
    items: Sequence[Item],
    outputs: Sequence[str],
    limits: Limits,
    seconds: float | None,
    priority: int,
    preview: bool,
) -> list[Row]:
    started = time.monotonic()
    deadline = started + min(seconds or math.inf, limits.deadline_seconds)
    sent: list[Sent | Frame] = []
    owners: list[tuple[Item, Page | None]] = []
    for item in items:
        assert isinstance(item.content, bytes)
        if not item.is_document:
            sent.append(item.content)
            owners.append((item, None))
            continue
        for page in await _pages(model, item, limits, deadline, preview):
            sent.append(page.frame)
            owners.append((item, page))
            limits.check_count(len(sent), item.place, "send an image")
    left = None if seconds is None else max(0.001, seconds - (time.monotonic() - started))
    places = [item.place for item, _ in owners]
    served = await infer(receive, model, sent, outputs, limits, seconds=left, priority=priority, places=places)
    return [
        Row(item, page.number, outcome, page.preview) if page else Row(item, None, outcome)
        for (item, page), outcome in zip(owners, served, strict=True)
    ]


async def _pages(model: Model, item: Item, limits: Limits, deadline: float, preview: bool) -> list[Page]:
    try:
        return await asyncio.wrap_future(
            model.scheduler.decoders.submit_apart(read_pages, model, item, limits, deadline, preview)
        )
    except Exception as error:
        raise problem_of(error, item.place) from error
