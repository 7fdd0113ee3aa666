"""Times matrix products, whole models, and the Triton kernels alone for the GPU suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_suite.kernels import HEADS, compare_attention, compare_positions
from benchmarks.gpu_suite.paths import GpuPath
from benchmarks.gpu_suite.run import Run
from benchmarks.peers.mixes import Mix
from benchmarks.peers.work import useful_gflop
from benchmarks.support.timing import interleaved

COMPILED_MIX = "mixed"
"""The only mix on which compiled contenders are timed, because every shape of a batch is compiled again."""

SQUARE = {"cuda": 8192, "cpu": 256}


def filling(mix: Mix, budget: int) -> Mix:
    """Repeat the images of a mix as long as they fit a pack of ``budget`` tokens; there may be none."""
    grids: list[tuple[int, int]] = []
    room = budget
    while room >= (rows_columns := mix.grids[len(grids) % len(mix.grids)])[0] * rows_columns[1]:
        grids.append(rows_columns)
        room -= rows_columns[0] * rows_columns[1]
    return Mix(mix.name, mix.about, tuple(grids))


def rates(run: Run) -> dict[str, float]:
    """TFLOP/s of the fastest matrix product by precision, among large squares and shapes of a model."""
    side = SQUARE[run.device]
    shapes = [(side,) * 3, (2 * side, side // 8, side // 2), (2 * side, side // 2, side // 8)]
    found: dict[str, float] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        for rows, inner, columns in shapes:
            a = torch.randn(rows, inner, device=run.device).to(dtype)
            b = torch.randn(inner, columns, device=run.device).to(dtype)
            call = run.synchronized(partial(torch.matmul, a, b))
            seconds = interleaved({"product": call}, run.rounds)["product"].best
            found[name] = max(found.get(name, 0.0), 2 * rows * inner * columns / seconds / 1e12)
    run.say(", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in found.items()))
    return found


def speed(
    run: Run, model: str, paths: Mapping[str, GpuPath], pack: Mix, budget: int, shape: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Time paths on one pack, in turns.

    Args:
        run: The run, which records failures.
        model: Name of the model.
        paths: Paths by name.
        pack: The images of the pack, from `filling`.
        budget: Budget of the pack in tokens.
        shape: Shape of the model, as `useful_gflop` takes it.
    """
    images = pack.images(shape["patch_values"])
    title = f"{model}, {pack.name}, {budget} tokens"
    calls = {}
    for name, path in paths.items():
        if ("compiled" in name and pack.name != COMPILED_MIX) or run.late(f"{title}, {name}"):
            continue
        try:
            call = run.synchronized(path.bind(images).launch)
            call()
        except Exception as error:  # A library may fail for any reason, which goes into the table.
            run.leave_out(f"{title}, {name}", error)
            continue
        calls[name] = call
    tokens, work = sum(pack.lengths), useful_gflop(shape, pack.lengths)
    rows = []
    for name, timing in interleaved(calls, run.rounds).items():
        run.say(f"{title}, {name}: {timing.median * 1e3:.2f} ms")
        rows.append(
            {
                "mix": pack.name,
                "budget": budget,
                "images": len(images),
                "tokens": tokens,
                "padding": round(pack.padding, 4),
                "name": name,
                "precision": paths[name].precision,
                "ours": paths[name].ours,
                "ms": timing.median * 1e3,
                "best_ms": timing.best * 1e3,
                "spread": timing.spread,
                "tokens_per_second": tokens / timing.median,
                "tflops": work / timing.median / 1e3,
            }
        )
    return rows


def kernels(run: Run, models: Sequence[str], packs: Sequence[Mix], budget: int) -> list[dict[str, Any]]:
    """Time the Triton kernels of ``plugins/`` and those of torch.

    Args:
        run: The run, which records failures.
        models: Names of models, of which those in `HEADS` are used.
        packs: Mixes, each filled up to ``budget`` tokens.
        budget: Budget of the packs in tokens.
    """
    rows: list[dict[str, Any]] = []
    for pack in packs:
        for model in (model for model in models if model in HEADS):
            what = f"Triton kernels, {model}, {pack.name}"
            if run.late(what):
                continue
            try:
                found = compare_attention(model, pack.lengths, run.rounds)
                found += compare_positions(model, pack.grids, run.rounds)
            except Exception as error:  # A library may fail for any reason, which goes into the table.
                run.leave_out(what, error)
                continue
            rows += [{"mix": pack.name, "budget": budget, **row} for row in found]
            run.say(what)
    return rows
