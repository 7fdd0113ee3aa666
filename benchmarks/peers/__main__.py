"""Times this project's engine on a CPU, in turns with everything that a user could run instead.

    python -m benchmarks.peers [--threads 1 2] [--rounds 5] [--small] [--only NAME…] [--compile] [-o DIR]

Weights are random, of the shape of siglip2-base, and outputs are compared before anything is timed. Ratios compare
medians within this run. OpenVINO contenders need openvino and nncf; the plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import contenders as c
from benchmarks.peers.mixes import Mix, mixes
from benchmarks.peers.rooflines import rooflines
from benchmarks.peers.timm_contender import timm_model
from benchmarks.peers.work import useful_gflop
from benchmarks.support.provenance import installed
from benchmarks.support.timing import interleaved
from naflex_deploy.core.errors import BenchmarkError
from naflex_deploy.core.machine import cpu_flags, cpu_name, system_name

REFERENCE = "transformers eager fp32, padded"
LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.995, "int8": 0.9}
"""Smallest cosine with which a contender is timed, by precision. Weights are random; trained ones lose less."""
NOTES = (
    "With SigLIP2's default preprocessing every image fills its budget, so padding is only 1-5 % there.",
    "On a CPU with bf16 units, bf16 in torch or OpenVINO beats any fp32 engine.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="use a narrow model and few images, to test the benchmark")
    parser.add_argument("--only", nargs="+", help="run only contenders whose name contains one of these")
    parser.add_argument("--mix", nargs="+", help="run only the mixes of these names")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, for one thread on a shared machine")
    parser.add_argument("--compile", action="store_true", help="also run torch.compile, which takes minutes")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/peers"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    source = c.model("small" if options.small else "siglip2-base")
    graphs = c.Graphs(source)
    chosen = [mix for mix in mixes(4 if options.small else 1) if not options.mix or mix.name in options.mix]
    if options.cpu_time and options.threads != [1]:
        parser.error("--cpu-time is only meaningful with --threads 1")
    clock = time.process_time if options.cpu_time else time.perf_counter
    runs = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        makers = _makers(source, graphs, threads, with_compile=options.compile)
        if options.only:
            makers = {
                name: make
                for name, make in makers.items()
                if name == REFERENCE or any(part in name for part in options.only)
            }
        runs.append(
            {
                "threads": threads,
                "rooflines": rooflines(threads, clock=clock),
                **_run(makers, chosen, options.rounds, clock),
            }
        )
    report = {"schema": 1, "machine": _machine(), "model": _model(source), "notes": NOTES, "runs": runs}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "peers.json").write_text(json.dumps(report, indent=2) + "\n")
    table = render(report)
    (options.output / "peers.md").write_text(table)
    print(table)
    _plot(report, options.output / "peers.png")


def _makers(source: Any, graphs: c.Graphs, threads: int, *, with_compile: bool) -> dict[str, Callable[[], c.Contender]]:
    bf16 = torch.bfloat16
    found: dict[str, Callable[[], c.Contender]] = {
        REFERENCE: partial(c.hf, source),
        "transformers sdpa fp32, padded": partial(c.hf, source, "sdpa"),
        "transformers sdpa fp32, one by one": partial(c.hf, source, "sdpa", one_by_one=True),
        "transformers sdpa bf16, padded": partial(c.hf, source, "sdpa", bf16),
        "transformers sdpa bf16, one by one": partial(c.hf, source, "sdpa", bf16, one_by_one=True),
        "timm fp32, padded": partial(timm_model, source),
        "timm fp32, one by one": partial(timm_model, source, one_by_one=True),
        "naive ONNX export fp32, padded": partial(c.naive, source, threads),
    }
    if with_compile:
        found["torch.compile fp32, padded"] = partial(c.hf, source, "sdpa", compiled=True)
        found["torch.compile bf16, padded"] = partial(c.hf, source, "sdpa", bf16, compiled=True)
    for precision in ("fp32", "bf16", "int8"):
        found[f"OpenVINO {precision}, one by one"] = partial(c.openvino, graphs, threads, precision)
        if threads > 1:
            found[f"OpenVINO {precision}, a stream a core"] = partial(
                c.openvino, graphs, threads, precision, streams=threads
            )
    for precision in ("fp32", "int8"):
        for layout in ("one by one", "packed", *(["side by side"] if threads > 1 else [])):
            found[f"naflex-deploy {precision}, {layout}"] = partial(c.ours, graphs, threads, layout, precision)
    return found


def _run(
    makers: dict[str, Callable[[], c.Contender]], chosen: list[Mix], rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Time all contenders on all mixes; those that do not run, or whose results differ, are listed with the reason."""
    made, absent = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:  # A library may fail for any reason, which goes into the table.
            absent[name] = _reason(error)
    results = []
    for mix in chosen:
        images = mix.images(768)
        calls, cosines, left_out = {}, {}, dict(absent)
        wanted = None
        for name, contender in made.items():
            try:
                call = contender.bind(images)
                found = call()
                wanted = found if wanted is None else wanted
                cosines[name] = _cosine(found, wanted)
                least = LEAST_COSINE[contender.precision]
                if not cosines[name] >= least:
                    if contender.ours:
                        raise BenchmarkError(f"{name} differs: expected a cosine of {least}, found {cosines[name]:.6f}")
                    left_out[name] = f"differs: cosine {cosines[name]:.4f}"
                    continue
                calls[name] = call
            except BenchmarkError:
                raise
            except Exception as error:
                left_out[name] = _reason(error)
        timings = interleaved(calls, rounds, clock)
        base = timings[REFERENCE].median
        results.append(
            {
                "mix": mix.name,
                "about": mix.about,
                "images": len(mix.grids),
                "tokens": sum(mix.lengths),
                "padding": round(mix.padding, 4),
                "left_out": left_out,
                "rows": [
                    {
                        "name": name,
                        "precision": made[name].precision,
                        "ours": made[name].ours,
                        "ms": round(timing.median * 1e3, 2),
                        "best_ms": round(timing.best * 1e3, 2),
                        "spread": round(timing.spread, 4),
                        "ratio": round(base / timing.median, 3),
                        "cosine": round(cosines[name], 7),
                    }
                    for name, timing in timings.items()
                ],
            }
        )
    return {"mixes": results}


def _cosine(found: c.Pooled, wanted: c.Pooled) -> float:
    """The smallest cosine over images."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(1) / norms).min())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def render(report: dict[str, Any]) -> str:
    """Render the report as Markdown."""
    lines = [f"{report['machine']['cpu']} · {', '.join(report['machine']['flags'])}", ""]
    lines += [" · ".join(f"{name} {number}" for name, number in report["machine"]["versions"].items()), ""]
    lines += [*report["notes"], ""]
    by_name = {mix.name: mix for shrink in (4, 1) for mix in mixes(shrink)}
    for run in report["runs"]:
        roof = run["rooflines"]
        figures = ", ".join(f"{kind} {value:.0f} G/s" for kind, value in roof.items())
        lines += [f"## {run['threads']} threads; products measured in this run: {figures}", ""]
        for mix in run["mixes"]:
            title = f"### {mix['mix']}: {mix['about']}; {mix['images']} images, {mix['tokens']} tokens"
            lines += [f"{title}, padding {mix['padding']:.1%} of a padded batch", ""]
            lines += ["| | ms | σ | × reference | of its roofline | cosine |", "|---|---|---|---|---|---|"]
            lengths = by_name[mix["mix"]].lengths[: mix["images"]]
            work = useful_gflop(report["model"], lengths)
            for row in sorted(mix["rows"], key=lambda row: row["ms"]):
                limit = roof[{"fp32": "sgemm"}.get(row["precision"], row["precision"])]
                name = f"**{row['name']}**" if row["ours"] else row["name"]
                lines.append(
                    f"| {name} | {row['ms']:.0f} | {row['spread']:.0%} | {row['ratio']:.2f} "
                    f"| {work / row['ms'] * 1e3 / limit:.0%} | {row['cosine']:.6f} |"
                )
            lines += ["", *(f"- not run: {name}: {reason}" for name, reason in mix["left_out"].items()), ""]
            lines += [headline(mix), ""]
    return "\n".join(lines)


def headline(mix: dict[str, Any]) -> str:
    """Compare our engine of each precision with the fastest other contender of each, and our int8 with our fp32."""

    def best(precision: str, *, ours: bool) -> dict[str, Any] | None:
        rows = [row for row in mix["rows"] if row["ours"] == ours and row["precision"] == precision]
        return max(rows, key=lambda row: row["ratio"], default=None)

    sentences = []
    for own in ("fp32", "int8"):
        rivals = [best(precision, ours=False) for precision in ("fp32", "bf16", "int8")]
        rivals += [best("fp32", ours=True)] if own == "int8" else []
        if mine := best(own, ours=True):
            parts = [f"{mine['ratio'] / row['ratio']:.2f}× {row['name']}" for row in rivals if row]
            sentences.append(f"{mine['name']}: {', '.join(parts)}.")
    return " ".join(sentences)


def _machine() -> dict[str, Any]:
    versions = installed("onnxruntime", "torch", "transformers", "timm", "openvino", "nncf", "numpy")
    return {"cpu": cpu_name(), "flags": cpu_flags(), "system": system_name(), "versions": versions}


def _model(source: Any) -> dict[str, int]:
    config = source.config
    return {
        "width": config.hidden_size,
        "mlp_width": config.intermediate_size,
        "depth": config.num_hidden_layers,
        "patch_values": config.patch_size**2 * config.num_channels,
    }


def _plot(report: dict[str, Any], path: Path) -> None:
    try:
        import matplotlib
    except ModuleNotFoundError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    run = report["runs"][-1]
    names = list(dict.fromkeys(row["name"] for mix in run["mixes"] for row in mix["rows"]))
    figure, axes = pyplot.subplots(1, len(run["mixes"]), figsize=(4 * len(run["mixes"]), 0.32 * len(names) + 1.5))
    for axis, mix in zip(np.atleast_1d(axes), run["mixes"], strict=True):
        rows = {row["name"]: row for row in mix["rows"]}
        values = [rows[name]["ratio"] if name in rows else 0 for name in names]
        colours = ["tab:orange" if name in rows and rows[name]["ours"] else "tab:blue" for name in names]
        axis.barh(range(len(names)), values, color=colours)
        axis.set_yticks(range(len(names)), names if axis is np.atleast_1d(axes)[0] else [""] * len(names), fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{mix['mix']}, padding {mix['padding']:.0%}", fontsize=9)
        axis.set_xlabel(f"× {REFERENCE}", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
