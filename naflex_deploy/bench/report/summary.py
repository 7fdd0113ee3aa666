"""The figures of a benchmark that are asked for first."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

GOAL_SHARE = 0.99
"""Share of all images offered at a rate that must be answered within the latency objective for it to be met."""


def summary_json(document: Json) -> Json:
    """The summary of a document: latency of one image after another, throughput, and up to which rate the goal is met.

    ``met`` is null where no load was measured. ``met_up_to`` is the highest rate in images/s that meets the goal, as do
    all lower ones that were measured, with a queue that knows the goal; null where the lowest misses it.
    """
    single, offline = document["single"], document["offline"]
    latency = single["latency"] if single else {}
    steps = sorted((step for step in document["open_loop"] if step["goal_known"]), key=lambda step: float(step["rate"]))
    met_up_to = None
    for step in steps:
        if step["within_goal"] < GOAL_SHARE:
            break
        met_up_to = step["rate"]
    return {
        "p50_ms": _estimate(latency.get("p50_ms")),
        "p90_ms": _estimate(latency.get("p90_ms")),
        "images_per_second": offline["images_per_second"] if offline else None,
        "useful_tokens_per_second": offline["useful_tokens_per_second"] if offline else None,
        "goal": {
            "ms": document["slo_ms"],
            "share": GOAL_SHARE,
            "met": met_up_to is not None if steps else None,
            "met_up_to": met_up_to,
        },
    }


def _estimate(interval: Json | None) -> float | None:
    return float(interval["estimate"]) if interval else None


def goal_text(goal: Json) -> str:
    """Whether the goal was met, in words."""
    if goal["met"] is None:
        return "not measured"
    within = f"{goal['share']:.0%} within {goal['ms']:.3g} ms"
    return f"{within}: met up to {goal['met_up_to']:.3g} images/s" if goal["met"] else f"{within}: not met at any rate"
