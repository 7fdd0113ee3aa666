"""Turns a measurement into one JSON document, and into an HTML page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from naflex_deploy.bench.compare.compare import Ratio
from naflex_deploy.bench.compare.contenders import Comparison
from naflex_deploy.bench.compare.statistics import RATIO_CONFIDENCE, Interval
from naflex_deploy.bench.cost.stages import Stages
from naflex_deploy.bench.load.accounting import Allocation
from naflex_deploy.bench.load.latency import Latency
from naflex_deploy.bench.load.measure import BudgetFigures, SingleFigures, Step, Throughput
from naflex_deploy.bench.report.provenance import Provenance
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import Lock

BINS = 8
"""Number of bins in the histogram of tokens."""

Json = dict[str, Any]

NOTHING: Json = {
    "server": None,
    "single": None,
    "offline": None,
    "open_loop": [],
    "slo_ms": None,
    "budgets": [],
    "accounting": None,
    "stages": None,
    "peak_memory_bytes": None,
}
"""The entries of figures that were not asked for."""


def interval_json(interval: Interval | None, factor: float = 1.0) -> Json | None:
    """An interval in another unit."""
    return None if interval is None else {name: _round(value * factor) for name, value in asdict(interval).items()}


def latency_json(latency: Latency) -> Json:
    """A latency in milliseconds; a quantile without enough samples is null."""
    quantiles = {f"{name}_ms": interval_json(found, 1e3) for name, found in latency.quantiles.items()}
    distribution = [_round(1e3 * seconds) for seconds in latency.distribution]
    return {"count": latency.count, **quantiles, "max_ms": _round(latency.most * 1e3), "distribution_ms": distribution}


def single_json(single: SingleFigures) -> Json:
    by_image = [{"tokens": tokens, "median_ms": _round(seconds * 1e3)} for tokens, seconds in single.by_image]
    return {"latency": latency_json(single.latency), "by_image": by_image}


def offline_json(throughput: Throughput) -> Json:
    return {
        "images_per_second": _round(throughput.images_estimate),
        "interval": interval_json(throughput.images),
        "useful_tokens_per_second": _round(throughput.tokens),
        "passes": throughput.passes,
    }


def allocation_json(found: Allocation) -> Json:
    """Tokens by what they were used for, and their shares of all allocated tokens."""
    total = found.allocated or 1.0
    parts = ("useful", "patch_rounding", "pack_tail", "budget_rounding")
    return {
        "tokens": {name: round(getattr(found, name)) for name in parts},
        "shares": {name: _round(getattr(found, name) / total) for name in parts},
        "allocated": round(found.allocated),
        "useful_scores": found.useful_scores,
        "computed_scores": found.scores,
    }


def budget_json(figures: BudgetFigures) -> Json:
    return {
        "budget": figures.budget,
        "fill": _round(figures.fill),
        "latency": latency_json(figures.latency),
        "images_per_second": _round(figures.images),
        "useful_tokens_per_second": _round(figures.tokens),
    }


def step_json(step: Step) -> Json:
    shares = {name: _round(getattr(step, name)) for name in ("rejected", "late", "errors")}
    rates = {name: _round(getattr(step, name)) for name in ("rate", "sent", "completed", "goodput")}
    latencies = {"latency": latency_json(step.latency), "generator_lag": latency_json(step.lag)}
    return {**rates, **shares, "within_goal": _round(step.within), **latencies, "goal_known": step.goal_known}


def stages_json(stages: Stages) -> Json:
    milliseconds = {name: _round(1e3 * seconds) for name, seconds in stages.seconds.items()}
    return {"ms_per_image": milliseconds, "images": stages.images, "passes": stages.passes}


def ratio_json(ratio: Ratio) -> Json:
    return {
        "workload": ratio.workload,
        "times_as_fast": interval_json(ratio.speed),
        "confidence": RATIO_CONFIDENCE,
        "first_ms": _round(1e3 * ratio.first),
        "second_ms": _round(1e3 * ratio.second),
        "requests": ratio.requests,
        "sittings": ratio.sittings,
    }


def comparison_json(comparison: Comparison) -> Json:
    return {
        "first": comparison.first,
        "second": comparison.second,
        "least_cosine": comparison.least_cosine,
        "ratios": [ratio_json(ratio) for ratio in comparison.ratios],
    }


def provenance_json(provenance: Provenance) -> Json:
    return {
        "started": provenance.started,
        "load_average": provenance.load,
        "machine_was_busy": provenance.busy,
        **provenance.facts,
    }


def histogram_json(tokens: Sequence[int]) -> Json:
    """A histogram of the images by their tokens, whose bins reach from ``from`` to ``to`` inclusive."""
    edges = np.unique(np.linspace(min(tokens), max(tokens) + 1, BINS + 1).round().astype(int))
    counts, _ = np.histogram(tokens, edges)
    return {
        "images": len(tokens),
        "tokens": sum(tokens),
        "bins": [
            {"from": low, "to": high - 1, "images": count}
            for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        ],
    }


def write_page(document: Json, path: Path, lock: Lock | None = None, beside: Sequence[Json] = ()) -> None:
    """Write a document as one HTML file that loads nothing.

    Args:
        document: To be shown.
        beside: Earlier runs, see `read_run`.
        path: Of the file.
        lock: See `new_file`.

    Raises:
        OutputError: The file cannot be written.
    """
    template = files("naflex_deploy.bench.report").joinpath("page.html").read_text(encoding="utf-8")
    # Only a "<" could end the script element that holds the data.
    data = json.dumps({**document, "beside": list(beside)}).replace("<", "\\u003c")
    with new_file(path, lock) as partial:
        partial.write_text(template.replace("{{data}}", data), encoding="utf-8")


def _round(value: float) -> float:
    """Round to five significant digits."""
    return float(f"{value:.5g}")
