"""Renders the report of the GPU suite as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Report = dict[str, Any]


def render(report: Report) -> str:
    """Render the whole report. The machine comes first, because no figure means anything without it."""
    return "\n".join(
        [*_head(report), *_goals(report), *_parity(report), *_speed(report), *_kernels(report), *_rest(report)]
    )


def _head(report: Report) -> Iterator[str]:
    executed = report["executed"]
    yield f"Executed on {executed['device']}; {executed['cpu']}; {executed['system']}; {executed['date']}."
    yield ""
    yield " · ".join(f"{name} {number}" for name, number in executed["versions"].items())
    yield ""
    if not report["rates"]:
        yield "Nothing was measured."
        yield ""
        return
    measured = ", ".join(f"{name} {rate:.3g}" for name, rate in report["rates"].items())
    yield f"Fastest matrix products of this run, TFLOP/s: {measured}. Useful work is counted, padding is not."
    yield "Inputs and outputs stay in the memory of the device that computes."
    yield ""


def _goals(report: Report) -> Iterator[str]:
    for goal in report["goals"]:
        verdict = "reached" if goal["found"] >= goal["goal"] else "missed"
        yield f"- {goal['what']}: {goal['found']:.2f} ({goal['by']}), goal {goal['goal']}: {verdict}"
    yield ""


def _parity(report: Report) -> Iterator[str]:
    if not report["parity"] and not report["engines"]:
        return
    yield "## Results against the packed model in float32"
    yield ""
    yield from parity_table(report["parity"])
    for row in report["sessions"]:
        verdict = "kept" if row["passed"] else "broken"
        yield f"- {row['model']}, {row['name']}, {row['promise']}: {verdict}, off by {row['max_error']:.1e}"
    for engine in report["engines"]:
        if "reason" in engine:
            yield f"- {engine['model']}, {engine['name']}: {engine['reason']}"
            continue
        attention = ", ".join(f"{name} {count}" for name, count in engine["attention"].items())
        cpu = sum(engine["placement"].get("CPUExecutionProvider", {}).values())
        where = f"attention by {attention or 'unknown'}; {cpu} operators on the CPU"
        yield f"- {engine['model']}, {engine['name']}: {where}"
    yield ""


def parity_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Render the rows of `parity.parity`, each with its ``model``."""
    yield "| model | path | pooled, least cosine | token, least cosine | largest error | rms error | × torch | passed |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        figures = f"{row['pooled']:.6f} | {row['tokens']:.6f} | {row['max_error']:.1e} | {row['rms_error']:.1e}"
        compared = f"{row['times_torch']:.2f}" if row["times_torch"] else "-"
        yield f"| {row['model']} | {_name(row)} | {figures} | {compared} | {'yes' if row['passed'] else 'no'} |"
    yield ""
    yield "Errors are shares: the largest of the largest value, the root mean square of that of all, of the worse"
    yield "output. × torch: rms error in bf16 over that of transformers in bf16."
    yield ""


def _speed(report: Report) -> Iterator[str]:
    keys = dict.fromkeys((row["model"], row["mix"], row["budget"]) for row in report["speed"])
    for model, mix, budget in keys:
        rows = [row for row in report["speed"] if (row["model"], row["mix"], row["budget"]) == (model, mix, budget)]
        first = rows[0]
        yield f"## {model}, {mix}, packs of {budget}: {first['images']} images, {first['tokens']} tokens"
        yield ""
        yield f"Padded, {first['padding']:.0%} of a batch is padding."
        yield ""
        yield "| path | ms | σ | tokens/s | TFLOP/s | of the bf16 rate |"
        yield "|---|---|---|---|---|---|"
        for row in sorted(rows, key=lambda row: row["ms"]):
            share = row["tflops"] / report["rates"]["bf16"]
            figures = f"{row['ms']:.2f} | {row['spread']:.0%} | {row['tokens_per_second']:,.0f} | {row['tflops']:.3g}"
            yield f"| {_name(row)} | {figures} | {share:.0%} |"
        yield ""


def _kernels(report: Report) -> Iterator[str]:
    if report["kernels"]:
        yield "## Kernels alone, bf16"
        yield ""
        yield "| kernel | heads of | mix | by | ms | TFLOP/s | largest error |"
        yield "|---|---|---|---|---|---|---|"
    for row in report["kernels"]:
        if row["reason"]:
            figures = f"- | - | {row['reason']}"
        else:
            speed = f"{row['tflops']:.3g}" if row["tflops"] else "-"
            figures = f"{row['ms']:.3f} | {speed} | {row['error']:.1e}"
        yield f"| {row['kernel']} | {row['model']} | {row['mix']} | {row['name']} | {figures} |"
    yield ""


def _rest(report: Report) -> Iterator[str]:
    if report["left_out"]:
        yield "## Not run"
        yield ""
        yield from (f"- {one['what']}: {one['reason']}" for one in report["left_out"])
        yield ""
    yield f"{report['seconds']:.0f} s in all."
    yield ""


def _name(row: Mapping[str, Any]) -> str:
    return f"**{row['name']}**" if row["ours"] else str(row["name"])
