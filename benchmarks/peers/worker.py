"""The process of one contender: reads a message a line, answers in a line. See `turns`."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    # What libraries print must not come between answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    task = json.loads(sys.stdin.readline())
    call: Any = None
    made: Any = None

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        nonlocal call, made
        if message is task:
            made = _make(task)
            return {"precision": made.precision, "ours": made.ours} if task["name"] else {}
        if message["do"] == "bind":
            call = made.bind(_images(message, task["size"]))
            np.save(message["output"], call())
            return {}
        if not task["name"]:
            return {"rates": made()}
        clock = time.process_time if task["cpu_time"] else time.perf_counter
        start = clock()
        call()
        return {"seconds": clock() - start}

    message = task
    while message:
        try:
            found = answer(message)
        except Exception as error:  # any library, any reason: it goes into the table
            found = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
        line = sys.stdin.readline()
        message = json.loads(line) if line else None


def _make(task: dict[str, Any]) -> Any:
    if not task["name"]:
        from benchmarks.peers.rooflines import SHAPES, SMALL, products

        clock = time.process_time if task["cpu_time"] else time.perf_counter
        return products(task["library"], task["threads"], clock, SMALL if task["size"].endswith("small") else SHAPES)
    from benchmarks.peers.engines import Graphs
    from benchmarks.peers.lineup import lineup

    makers = lineup(task["size"], task["threads"], with_compile=True)
    return makers[task["name"]](Graphs(Path(task["folder"])))


def _images(message: dict[str, Any], size: str) -> Any:
    from benchmarks.peers import towers
    from benchmarks.peers.engines import PATCH_VALUES
    from benchmarks.peers.mixes import mixes

    (mix,) = (mix for mix in mixes(message["shrink"]) if mix.name == message["mix"])
    if towers.is_tower(size):
        return towers.in_blocks(mix).images(towers.TOWERS[size.partition(":")[0]].patch_values)
    return mix.images(PATCH_VALUES)


if __name__ == "__main__":
    main()
