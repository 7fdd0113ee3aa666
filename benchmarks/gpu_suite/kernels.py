"""Compares results and times of the Triton kernels of ``plugins/`` with those of torch on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_suite.attention import packed_attention, varlen_flash
from benchmarks.support.timing import interleaved
from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.compiler.model.positions.interpolation import PositionTable

CALLS = 20
"""Number of calls that are timed together, because a single kernel is too short to time."""

BLOCKS = ((64, 32, 4), (64, 64, 4), (128, 32, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8))
"""Combinations that are tried of query rows, key rows and warps of a program."""

HEADS = {"siglip2-base": (12, 64), "siglip2-so400m": (16, 72)}


def compare_attention(model: str, lengths: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Compare our kernel with torch's flash attention over sequences and masked attention over padded rows, in bf16.

    Args:
        model: Name of a model in `HEADS`.
        lengths: Tokens of each image.
        rounds: Number of rounds to time.
    """
    heads, width = HEADS[model]
    query, key, value, segments, ends = _inputs(lengths, heads, width)
    longest = max(lengths)
    wanted = ragged_attention(*(x.float() for x in (query, key, value)), segments, segments)
    q, k, v, mask, real = _padded(lengths, query, key, value)
    calls: dict[str, Callable[[], Tensor]] = {
        "torch flash, varlen": lambda: varlen_flash(query, key, value, ends, ends, longest, longest),
        "torch SDPA, padded and masked": lambda: F.scaled_dot_product_attention(q, k, v, mask),
        "ours": lambda: packed_attention(query, key, value, segments, ends),
    }
    for rows, keys, warps in BLOCKS:
        name = f"ours, blocks of {rows}x{keys}, {warps} warps"
        calls[name] = partial(packed_attention, query, key, value, segments, ends, (rows, keys, warps))
    work = 4 * heads * width * sum(n * n for n in lengths) / 1e12
    found = _timed(calls, rounds, lambda out: _error(out.transpose(1, 2)[real] if out.ndim == 4 else out, wanted))
    return [
        {"model": model, "kernel": "attention", **row, "tflops": row["ms"] and work / row["ms"] * 1e3} for row in found
    ]


def compare_positions(model: str, grids: Sequence[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    """Compare our kernel with the formula in torch, on a 16x16 table, in bf16."""
    import triton

    from plugins.kernels.position_interpolation import position_interpolation
    from plugins.launches import position_constants, position_grid

    channels = int(np.prod(HEADS[model]))
    exact = PositionTable(Positions((16, 16)), channels).cuda()
    torch.nn.init.normal_(exact.table)
    parts = [torch.cartesian_prod(torch.arange(h), torch.arange(w)) for h, w in grids]
    coords = torch.cat(parts).int().cuda()
    segments = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor([len(p) for p in parts])).int().cuda()
    grid_hw = torch.tensor([*grids, (1, 1)], dtype=torch.int32).cuda()
    table = exact.table.data.bfloat16()
    low = copy.deepcopy(exact).bfloat16()
    tokens, constants = len(coords), position_constants(16, 16, channels, False)
    launch = position_grid(tokens, channels, triton.cdiv)

    def ours() -> Tensor:
        out = torch.empty(tokens, channels, dtype=table.dtype, device="cuda")
        position_interpolation[launch](coords, grid_hw, segments, table, tokens, out, **constants)
        return out

    with torch.inference_mode():
        wanted = exact(coords, grid_hw[segments.long()])
    calls = {"torch, by the formula": lambda: low(coords, grid_hw[segments.long()]), "ours": ours}
    found = _timed(calls, rounds, lambda out: _error(out, wanted))
    return [{"model": model, "kernel": "positions", **row, "tflops": None} for row in found]


def _timed(
    calls: Mapping[str, Callable[[], Tensor]], rounds: int, error_of: Callable[[Tensor], float]
) -> list[dict[str, Any]]:
    """Name, error and time of each call, or the reason why it did not run."""
    rows: dict[str, dict[str, Any]] = {}
    kept = {}
    for name, call in calls.items():
        rows[name] = {"name": name, "ms": None, "error": None, "reason": ""}
        try:
            with torch.inference_mode():
                rows[name]["error"] = error_of(call())
        except Exception as error:  # A library may fail for any reason, which goes into the table.
            rows[name]["reason"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        kept[name] = _repeated(call)
    for name, timing in interleaved(kept, rounds).items():
        rows[name]["ms"] = timing.median / CALLS * 1e3
    return list(rows.values())


def _repeated(call: Callable[[], Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for _ in range(CALLS):
                call()
            torch.cuda.synchronize()

    return run


def _inputs(lengths: Sequence[int], heads: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(lengths), heads, width)
    query, key, value = (torch.randn(shape, generator=generator).bfloat16().cuda() for _ in range(3))
    sizes = torch.tensor(lengths)
    segments = torch.repeat_interleave(torch.arange(len(lengths)), sizes).int().cuda()
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]).int().cuda()
    return query, key, value, segments, ends


def _padded(lengths: Sequence[int], *packed: Tensor) -> tuple[Tensor, ...]:
    """Padded rows [M, H, L, d], the mask [M, 1, 1, L] of keys, and the mask [M, L] of real tokens."""
    longest = max(lengths)
    real = torch.arange(longest, device="cuda") < torch.tensor(lengths, device="cuda")[:, None]
    rows = []
    for tensor in packed:
        row = torch.zeros(len(lengths), longest, *tensor.shape[1:], dtype=tensor.dtype, device="cuda")
        row[real] = tensor
        rows.append(row.transpose(1, 2).contiguous())
    return (*rows, real[:, None, None], real)


def _error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max())
