"""Answer a long list line by line, as its inputs are done: each line is an object of JSON (NDJSON).

A line has the entry of an input or a page, or the error of one input, which does not affect the others. The last line
counts both. Only so many inputs are run at a time, so that a list longer than the queue waits for its place there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.types import Message

from naflex_deploy.serving.http.models import Model
from naflex_deploy.serving.http.problems import Problem, problem_of
from naflex_deploy.serving.http.service import Service
from naflex_deploy.serving.http.v1 import openai
from naflex_deploy.serving.http.v1.items import Item
from naflex_deploy.serving.http.v1.run import Row, run

MEDIA = "application/x-ndjson"

AT_ONCE = 16
"""Inputs of a list that run at a time."""

LONGER = 64
"""How many times as many inputs as in another request there may be."""

PAUSE = 0.05
"""Seconds until an input for which there was no room is tried again."""


async def lines(
    service: Service,
    model: Model,
    items: Sequence[Item],
    output: str,
    parsed: openai.Request,
    write: Callable[[Model, Row], BaseModel],
    fields: dict[str, Any],
) -> AsyncGenerator[bytes]:
    """The lines of an answer. Closing the iterator takes what has not run out of the queue.

    Args:
        service: Of the server.
        model: The model that was asked for.
        items: The inputs.
        output: Name of the output to compute.
        parsed: The request.
        write: Makes the entry of a row.
        fields: Of the request in the log.
    """
    waiting = iter(items)
    running: set[asyncio.Task[list[bytes]]] = set()
    done = failed = tokens = 0

    async def one(item: Item) -> list[bytes]:
        nonlocal done, failed, tokens
        try:
            await openai.check(parsed, model, [item])
            rows = await _run(service, model.name, item, output, parsed)
        except Exception as error:
            failed += 1
            problem = problem_of(error, item.place)
            return [_line({"index": item.index, **problem.content("/v1", fields["request_id"])})]
        done += len(rows)
        tokens += sum(row.tokens for row in rows)
        return [write(model, row).model_dump_json(exclude_none=True).encode() + b"\n" for row in rows]

    try:
        while True:
            while len(running) < AT_ONCE and (item := next(waiting, None)) is not None:
                running.add(asyncio.create_task(one(item)))
            if not running:
                break
            finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                for line in task.result():
                    yield line
        fields["tokens"], fields["failed"] = tokens, failed
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        yield _line({"object": "summary", "model": model.name, "entries": done, "errors": failed, "usage": used})
    finally:
        for task in running:
            task.cancel()


async def _run(service: Service, name: str, item: Item, output: str, parsed: openai.Request) -> list[Row]:
    """Run one input, again after a pause where there was no room for it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + min(parsed.timeout or service.limits.deadline_seconds, service.limits.deadline_seconds)

    async def once(model: Model) -> list[Row]:
        return await run(
            _never,
            model,
            [item],
            (output,),
            service.limits,
            seconds=max(0.001, end - loop.time()),
            priority=parsed.priority,
            preview=parsed.preview,
        )

    while True:
        try:
            _, rows = await service.on_model(name, once)
            return rows
        except Problem as problem:
            if problem.reason != "queue_full" or loop.time() + PAUSE > end:
                raise
        await asyncio.sleep(PAUSE)


async def _never() -> Message:
    """Report no disconnect: the task that sends the lines notices it, and ends this one."""
    waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await waiting


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
