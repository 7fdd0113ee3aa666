"""The figures of a benchmark as CSV, one a line, and the documents of earlier runs that stand beside it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import new_file

Json = dict[str, Any]

COLUMNS = ("section", "item", "figure", "value", "low", "high")

SHOWN = ("bundle", "provenance", "summary", "mix", "single")
"""The entries of an earlier run that a report shows."""

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
_HINT = "give a report that bench -o wrote, or the output of bench --json"


def write_csv(document: Json, path: Path) -> None:
    """Write every figure as a line of `COLUMNS`; ``low`` and ``high`` bound the interval where there is one.

    Raises:
        OutputError: The file cannot be written.
    """
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(_rows(document))


def _rows(document: Json) -> Iterator[tuple[object, ...]]:
    single, offline = document["single"], document["offline"]
    sections: list[tuple[str, object, Json]] = [("summary", "", document["summary"])]
    sections += [("single", "", single["latency"])] if single else []
    sections += [("single by image", one["tokens"], {"median_ms": one["median_ms"]}) for one in _images(single)]
    sections += (
        [("offline", "", {key: value for key, value in offline.items() if key != "interval"})] if offline else []
    )
    for step in document["open_loop"]:
        name = f"{step['rate']}/s, goal {'known' if step['goal_known'] else 'not known'}"
        sections.append(("open loop", name, {**step, **step["latency"]}))
    sections += [("budget", one["budget"], {**one, **one["latency"]}) for one in document["budgets"]]
    sections += [("tokens", "", document["accounting"]["tokens"])] if document["accounting"] else []
    sections += [("stages", "", document["stages"]["ms_per_image"])] if document["stages"] else []
    for compared in document["comparisons"]:
        name = f"{compared['first']} against {compared['second']}"
        sections += [("comparison", f"{name}, {one['workload']}", one) for one in compared["ratios"]]
    sections += [("memory", "", {"peak_memory_bytes": document["peak_memory_bytes"]})]
    for section, item, figures in sections:
        for figure, value in figures.items():
            if isinstance(value, dict) and "estimate" in value:
                yield section, item, figure, value["estimate"], value["low"], value["high"]
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield section, item, figure, value, "", ""


def _images(single: Json | None) -> list[Json]:
    return single["by_image"] if single else []


def read_run(path: Path) -> Json:
    """The document of an earlier run, from its report or its JSON.

    Raises:
        UsageError: The file cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _DATA.search(text)
        document = json.loads(found[1] if found else text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the run {path}: {error}", hint=_HINT) from None
    missing = [name for name in SHOWN if not isinstance(document, dict) or name not in document]
    if missing:
        raise UsageError(f"{path}: expected a run of bench, found no '{missing[0]}'", hint=_HINT)
    return {name: document[name] for name in SHOWN}
