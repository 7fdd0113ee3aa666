"""Turns the document of a measurement into tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from naflex_deploy.bench.report.summary import goal_text

Json = dict[str, Any]

QUANTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")
LATENCY = ("samples", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "max ms")
SUMMARY = ("p50_ms", "p90_ms", "images_per_second", "useful_tokens_per_second")
BAR = 40
"""Length of the longest bar in characters."""


@dataclass(frozen=True)
class Table:
    """A table of cells."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]


def tables(document: Json) -> Iterator[Table]:
    """Yield the tables for which the document has figures."""
    if any(document[name] for name in ("single", "offline", "open_loop")):
        yield _summary(document["summary"])
    yield _mix(document["mix"])
    if document["comparisons"]:
        yield _comparisons(document["comparisons"])
    if single := document["single"]:
        yield Table("one image after another", LATENCY, [_latency(single["latency"])])
    if offline := document["offline"]:
        row = [spread(offline["interval"]) if offline["interval"] else number(offline["images_per_second"])]
        row += [number(offline["useful_tokens_per_second"]), str(offline["passes"])]
        yield Table("all images at once", ("images/s", "useful tokens/s", "passes"), [row])
    if document["open_loop"]:
        yield _open_loop(document["open_loop"], document["slo_ms"])
    if document["budgets"]:
        rows = [_budget(entry) for entry in document["budgets"]]
        yield Table("packs of each budget", ("budget", "full", "images/s", "useful tokens/s", *LATENCY), rows)
    if accounting := document["accounting"]:
        yield _accounting(accounting)
    if stages := document["stages"]:
        total = sum(stages["ms_per_image"].values()) or 1.0
        rows = [[name, number(ms), percent(ms / total)] for name, ms in stages["ms_per_image"].items()]
        yield Table("stages, one after another", ("stage", "ms per image", "share"), rows)


def _summary(summary: Json) -> Table:
    figures = [number(summary[name]) for name in SUMMARY]
    columns = ("p50 ms", "p90 ms", "images/s", "useful tokens/s", "goal")
    return Table("summary", columns, [[*figures, goal_text(summary["goal"])]])


def number(value: float | None) -> str:
    """Format a number to three significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):g}"


def spread(interval: Json | None) -> str:
    """Format an estimate and its interval."""
    if interval is None:
        return "-"
    return f"{number(interval['estimate'])} ({number(interval['low'])}-{number(interval['high'])})"


def percent(share: float) -> str:
    return f"{share:.1%}"


def _mix(mix: Json) -> Table:
    histogram = mix["histogram"]
    most = max(entry["images"] for entry in histogram["bins"]) or 1
    rows = [
        [
            f"{e['from']:,}-{e['to']:,}" if e["from"] < e["to"] else f"{e['to']:,}",
            str(e["images"]),
            "█" * round(BAR * e["images"] / most),
        ]
        for e in histogram["bins"]
    ]
    title = f"mix {mix['name']}: {mix['about']}; {histogram['images']} images, {histogram['tokens']:,} tokens"
    return Table(title, ("tokens", "images", ""), rows)


def _comparisons(comparisons: list[Json]) -> Table:
    rows = []
    for comparison in comparisons:
        cosine = comparison["least_cosine"]
        for ratio in comparison["ratios"]:
            speed = ratio["times_as_fast"]
            rows.append(
                [
                    comparison["first"],
                    comparison["second"],
                    ratio["workload"],
                    f"{speed['estimate']:.3f} ({speed['low']:.3f}-{speed['high']:.3f})",
                    number(ratio["first_ms"]),
                    number(ratio["second_ms"]),
                    "-" if cosine is None else f"{cosine:.6f}",
                ]
            )
    columns = ("first", "second", "workload", "times as fast", "first ms", "second ms", "least cosine")
    confidence = comparisons[0]["ratios"][0]["confidence"]
    return Table(f"comparison in turns, with {confidence:.0%} intervals", columns, rows)


def _budget(entry: Json) -> list[str]:
    rates = [number(entry[name]) for name in ("images_per_second", "useful_tokens_per_second")]
    return [str(entry["budget"]), percent(entry["fill"]), *rates, *_latency(entry["latency"])]


def _latency(latency: Json) -> list[str]:
    return [str(latency["count"]), *(spread(latency[name]) for name in QUANTILES), number(latency["max_ms"])]


def _open_loop(steps: list[Json], slo: float) -> Table:
    columns = (
        "queue knows the goal",
        "offered/s",
        "sent/s",
        "completed/s",
        "goodput/s",
        *LATENCY[1:],
        "rejected",
        "late",
        "errors",
        "lag p99 ms",
    )
    rows = [
        [
            "yes" if step["goal_known"] else "no",
            *(number(step[name]) for name in ("rate", "sent", "completed", "goodput")),
            *_latency(step["latency"])[1:],
            *(percent(step[name]) for name in ("rejected", "late", "errors")),
            spread(step["generator_lag"]["p99_ms"]),
        ]
        for step in steps
    ]
    return Table(
        f"open loop: Poisson arrivals, latency from when each was due, goodput within {number(slo)} ms", columns, rows
    )


def _accounting(accounting: Json) -> Table:
    rows = [
        [name.replace("_", " "), f"{tokens:,}", percent(accounting["shares"][name])]
        for name, tokens in accounting["tokens"].items()
    ]
    computed, needed = accounting["computed_scores"], accounting["useful_scores"]
    rows.append(["attention scores computed over Σ L²", number(computed / needed if needed else 1.0), ""])
    return Table("where tokens go", ("", "tokens", "share"), rows)
