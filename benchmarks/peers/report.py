"""The report of `benchmarks.peers` as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.peers.lineup import REFERENCE
from naflex_deploy.bench.compare.statistics import ratio_interval

CONFIDENCE = 0.95
"""Of intervals of ratios; 6 rounds are the fewest that give one."""

Row = dict[str, Any]


def render(report: dict[str, Any]) -> str:
    """Every mix as a table, the fastest first, and a sentence for each precision of ours."""
    machine = report["machine"]
    lines = [f"{machine['cpu']} · {', '.join(machine['flags'])} · {report['size']}", ""]
    lines += [" · ".join(f"{name} {number}" for name, number in machine["versions"].items()), ""]
    for run in report["runs"]:
        roofs = ", ".join(f"{kind} {value:.0f} G/s" for kind, value in run["rooflines"].items())
        lines += [f"## {run['threads']} threads; fastest products in this run: {roofs}", ""]
        for library, rates in run["libraries"].items():
            lines.append(f"- {library}: " + ", ".join(f"{kind} {rate:.0f} G/s" for kind, rate in rates.items()))
        lines.append("")
        for mix in run["mixes"]:
            lines += _mix(mix)
    return "\n".join(lines)


def _mix(mix: dict[str, Any]) -> list[str]:
    title = f"### {mix['mix']}: {mix['about']}; {mix['images']} images, {mix['tokens']} tokens"
    lines = [f"{title}, padding {mix['padding']:.1%} of a padded batch", ""]
    slowest = max(mix["rows"], key=_ms)
    base = next((row for row in mix["rows"] if row["name"] == REFERENCE), slowest)
    lines += [f"| | ms | × {base['name']} | of its roofline | linear work at torch's bf16 rate | cosine |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in sorted(mix["rows"], key=_ms):
        name = f"**{row['name']}**" if row["ours"] else row["name"]
        lines.append(
            f"| {name} | {row['ms']:.0f} | {ratio(base, row)} | {row['share']:.0%} "
            f"| {row['of_torch']:.0%} | {row['cosine']:.6f} |"
        )
    lines += ["", *(f"- not run: {name}: {reason}" for name, reason in mix["left_out"].items()), ""]
    return [*lines, *sentences(mix["rows"]), ""]


def ratio(slower: Row, faster: Row) -> str:
    """How many times as fast the second is: of medians, and the interval of the pairs of each round."""
    found = statistics.median(slower["seconds"]) / statistics.median(faster["seconds"])
    pairs = [a / b for a, b in zip(slower["seconds"], faster["seconds"], strict=True)]
    interval = ratio_interval(pairs, CONFIDENCE)
    return f"{found:.2f}" + (f" ({interval.low:.2f}–{interval.high:.2f})" if interval else "")


def sentences(rows: list[Row]) -> list[str]:
    """The best layout of each precision of ours against the best of each of the others', and of our own."""

    def best(part: str, *, ours: bool) -> Row | None:
        return min((row for row in rows if row["ours"] == ours and part in row["name"]), key=_ms, default=None)

    found = []
    for own in ("fp32", "bf16", "int8"):
        mine = best(f" {own} ", ours=True)
        if mine is None:
            continue
        rivals = [best(f"sdpa {kind}", ours=False) for kind in ("fp32", "bf16")]
        rivals += [*(best(f"OpenVINO {kind}", ours=False) for kind in ("fp32", "bf16"))]
        rivals += [best("OpenVINO int8", ours=False), best("naflex-deploy fp32 in onnxruntime", ours=True)]
        rivals += [best("naflex-deploy bf16", ours=True)] if own == "int8" else []
        parts = [f"{ratio(row, mine)} × {row['name']}" for row in rivals if row and row is not mine]
        found.append(f"{mine['name']}: {'; '.join(parts)}.")
    return found


def _ms(row: Row) -> float:
    return float(row["ms"])
