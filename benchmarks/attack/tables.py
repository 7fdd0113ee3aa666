"""Tables of what attacks have found, and their place in the documentation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.attack.result import Result
from benchmarks.attack.server import ATTACKS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- attacks -->", "<!-- end of attacks -->"


def tables(results: Sequence[Result]) -> str:
    """Everything that was found, in Markdown."""
    parts: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        parts[result.part].append(result)
    lines = [
        "| Attack | Health p50, p99, max (ms) | Good requests, p99 (ms) | Attackers got | Peak MB |",
        "|---" * 5 + "|",
    ]
    for name, one in ATTACKS.items():
        for part, title in ((name, one.title), (f"{name}, with an engine", f"{one.title}; the demo's engine")):
            if part in parts:
                lines.append(_server(title, parts.pop(part)))
    lines += ["", "| What | Tried | What became of it | Peak MB | Against the promises |", "|---" * 5 + "|"]
    for name, found in parts.items():
        lines += _rows(name, found)
    return "\n".join(lines)


def write(text: str, page: Path = PAGE) -> None:
    """Put tables between the marks of the page."""
    content = page.read_text(encoding="utf-8")
    head, _, rest = content.partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _server(title: str, results: Sequence[Result]) -> str:
    health = [value for result in results for value in result.health]
    good = [value for result in results for value in result.good]
    quantiles = ", ".join(f"{np.quantile(health, q):.1f}" for q in (0.5, 0.99, 1)) if health else ""
    seen = _sum(results)
    seconds = f"{np.quantile(good, 0.99):,.1f}" if good else ""
    answers = ", ".join(f"{count:,} × {what}" for what, count in sorted(seen["answers"].items()))
    return (
        f"| {title} | {quantiles} of {len(health):,} "
        f"| {len(good)} asked, {sum(result.unanswered for result in results)} unanswered, {seconds} "
        f"| {answers} | {max(result.peak for result in results):.0f} |"
    )


def _rows(name: str, results: Sequence[Result]) -> list[str]:
    counts, failures = _sum(results), sum(len(result.failures) for result in results)
    peak = max(result.peak for result in results)
    rows = []
    for number, (kind, outcomes) in enumerate(counts.items()):
        what = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.items() if count)
        against, most = (failures, f"{peak:.0f}" if peak else "") if number == 0 else ("", "")
        title = name if kind == name else f"{name}: {kind}"
        rows.append(f"| {title} | {outcomes.total():,} | {what} | {most} | {against} |")
    return rows


def _sum(results: Sequence[Result]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for kind, outcomes in result.counts.items():
            found[kind].update(outcomes)
    return found
