"""This project's engine on a CPU beside everything that a user would otherwise run.

    python -m benchmarks.peers [--model base|so400m|TOWER[:DEPTH]] [--threads 1 2] [--small] [--only NAME…] [-o DIR]

Every contender has a process of its own, and all take turns, the others asleep. Weights are random; outputs are
compared before anything is timed. Ratios are of medians within this run, intervals of the pairs of each round. The
products that bound them are measured in the same rounds, each library alone. Needs openvino and nncf for the contenders
of that name.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import contenders, towers
from benchmarks.peers.engines import Graphs
from benchmarks.peers.lineup import REFERENCE, chosen_variants, lineup
from benchmarks.peers.mixes import Mix, mixes
from benchmarks.peers.report import render
from benchmarks.peers.rooflines import LIBRARIES
from benchmarks.peers.turns import Player, take_turns
from benchmarks.peers.work import useful_gflop
from benchmarks.support.provenance import installed
from naflex_deploy.core.errors import BenchmarkError
from naflex_deploy.core.machine import cpu_flags, cpu_name, system_name

LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.995, "int8": 0.85}
"""A contender below these computes something else and is not timed. Weights are random: trained ones lose less."""
ROOF = {"fp32": "sgemm", "bf16": "bf16", "int8": "int8"}
"""The product that bounds each precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="base", help=f"base, so400m, or {' or '.join(towers.TOWERS)}, of all or :DEPTH blocks"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--rounds", type=int, default=8, help="6 or more, or ratios get no intervals")
    parser.add_argument("--small", action="store_true", help="use a narrow model and few images, to test the benchmark")
    parser.add_argument("--only", nargs="+", help="time those whose name contains one of these")
    parser.add_argument("--mix", nargs="+", help="mixes by name")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, for one thread on a shared machine")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes")
    parser.add_argument("--graphs", type=Path, help="folder that keeps what takes minutes to make")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/peers"))
    options = parser.parse_args()
    if options.cpu_time and options.threads != [1]:
        parser.error("--cpu-time needs --threads 1")
    tower = towers.is_tower(options.model)
    if not tower and f"siglip2-{options.model}" not in contenders.SIZES:
        parser.error(f"--model {options.model}: expected base, so400m, {', '.join(towers.TOWERS)}")
    if tower:
        size = f"{options.model.partition(':')[0]}:small" if options.small else options.model
    else:
        size = "small" if options.small else f"siglip2-{options.model}"
    chosen = [mix for mix in mixes(4 if options.small else 1) if not options.mix or mix.name in options.mix]
    chosen = [towers.in_blocks(mix) for mix in chosen] if tower else chosen
    with ExitStack() as stack:
        folder = options.graphs and options.graphs / size.replace(":", "-")
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="naflex-peers-")))
        shape = contenders.shape(size)
        graphs = contenders.export_graphs(size, folder)
        runs = [
            _run(graphs, size, shape, threads, chosen, options, folder) for threads in dict.fromkeys(options.threads)
        ]
    report = {"schema": 2, "machine": _machine(), "size": size, "model": shape, "runs": runs}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "peers.json").write_text(json.dumps(report, indent=2) + "\n")
    table = render(report)
    (options.output / "peers.md").write_text(table)
    print(table)
    if not options.small:
        refuse_impossible(report)


def refuse_impossible(report: dict[str, Any]) -> None:
    """Raise a `BenchmarkError` where a contender is faster than the products that it is made of."""
    for run in report["runs"]:
        for mix in run["mixes"]:
            for row in mix["rows"]:
                if row["share"] > 1:
                    raise BenchmarkError(
                        f"{row['name']} on {mix['mix']} reaches {row['share']:.0%} of the fastest products of its "
                        f"precision, expected at most 100 %: the products were measured in a slow moment",
                        hint="run it again with more rounds, with nothing else running",
                    )


def _run(
    graphs: Graphs,
    size: str,
    shape: dict[str, int],
    threads: int,
    chosen: list[Mix],
    options: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    every = lineup(size, threads, with_compile=options.compile)
    timed = [name for name in every if not options.only or any(part in name for part in options.only)]
    first = towers.REFERENCE if towers.is_tower(size) else REFERENCE
    names = [first, *(name for name in timed if name != first)]
    for backend, precision in chosen_variants(names):
        contenders.lower(graphs, backend, precision)
    task = {"folder": str(folder), "size": size, "threads": threads, "cpu_time": options.cpu_time}
    with ExitStack() as stack:

        def player(**own: str) -> Player:
            made = Player({**task, **own})
            stack.callback(made.close)
            return made

        players = {name: player(name=name) for name in names}
        libraries = {library: player(name="", library=library) for library in LIBRARIES}
        absent = {name: one.about["error"] for name, one in players.items() if "error" in one.about}
        roofs: dict[str, dict[str, float]] = {library: {} for library in LIBRARIES}
        results = []
        for mix in chosen:
            playing = {name: one for name, one in players.items() if name not in absent}
            cosines, left_out = _compare(playing, mix, 4 if options.small else 1, folder)
            turns = {name: one for name, one in playing.items() if name in cosines and name in timed}
            answers = take_turns({**turns, **libraries}, options.rounds)
            for library in LIBRARIES:
                for answer in answers.pop(library):
                    for kind, rate in answer["rates"].items():
                        roofs[library][kind] = max(roofs[library].get(kind, 0.0), rate)
            results.append(
                {
                    "mix": mix.name,
                    "about": mix.about,
                    "images": len(mix.grids),
                    "tokens": sum(mix.lengths),
                    "padding": round(mix.padding, 4),
                    "gflop": useful_gflop(shape, mix.lengths),
                    "linear_gflop": useful_gflop(shape, mix.lengths, attention=False),
                    "left_out": {**absent, **left_out},
                    "rows": [
                        {
                            "name": name,
                            **players[name].about,
                            "seconds": [answer["seconds"] for answer in answers[name]],
                            "cosine": round(cosines[name], 7),
                        }
                        for name in turns
                    ],
                }
            )
    best = {kind: max(roofs[library].get(kind, 0.0) for library in LIBRARIES) for kind in ROOF.values()}
    for mix_result in results:
        for row in mix_result["rows"]:
            row["ms"] = round(statistics.median(row["seconds"]) * 1e3, 2)
            row["share"] = mix_result["gflop"] / row["ms"] * 1e3 / best[ROOF[row["precision"]]]
            row["of_torch"] = mix_result["linear_gflop"] / row["ms"] * 1e3 / roofs["torch"]["bf16"]
    return {"threads": threads, "rooflines": best, "libraries": roofs, "mixes": results}


def _compare(
    playing: dict[str, Player], mix: Mix, shrink: int, folder: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """The cosine of each contender to the first one, and why others are left out.

    Raises:
        BenchmarkError: One of ours differs, or does not run.
    """
    cosines: dict[str, float] = {}
    left_out: dict[str, str] = {}
    wanted = None
    for name, one in playing.items():
        output = folder / "output.npy"
        answer = one.ask({"do": "bind", "mix": mix.name, "shrink": shrink, "output": str(output)})
        if "error" in answer:
            left_out[name] = answer["error"]
        else:
            found = np.load(output)
            wanted = found if wanted is None else wanted
            norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
            cosine, least = float(((found * wanted).sum(1) / norms).min()), LEAST_COSINE[one.about["precision"]]
            if cosine >= least:
                cosines[name] = cosine
            else:
                left_out[name] = f"differs: cosine {cosine:.4f}, expected {least}"
        if name in left_out and one.about["ours"]:
            raise BenchmarkError(f"{name} on {mix.name}: {left_out[name]}")
    return cosines, left_out


def _machine() -> dict[str, Any]:
    versions = installed("onnxruntime", "torch", "transformers", "timm", "openvino", "nncf", "numpy")
    return {"cpu": cpu_name(), "flags": cpu_flags(), "system": system_name(), "versions": versions}


if __name__ == "__main__":
    main()
