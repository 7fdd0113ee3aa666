"""The kernels, run on the CPU by Triton's interpreter in a separate process, against the reference in torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton has no package for this platform")

ATTENTION = """
import torch, triton
from naflex_deploy.compiler.model.attention import ragged_attention
from plugins.kernels.packed_attention import packed_attention
from plugins.launches import attention_constants, attention_grid

cases = [
    (lengths, tail, heads, width, dtype)
    for width, heads in ((32, 2), (64, 1), (72, 2), (80, 1), (96, 1), (128, 1))
    for lengths, tail in (([1, 65, 7], 5),)
    for dtype in ((torch.float32, torch.float16) if width == 72 else (torch.float16,))
] + [([1], 0, 1, 32, torch.float32), ([64], 0, 1, 32, torch.float32), ([3], 70, 1, 32, torch.float32)]
for lengths, tail, heads, width, dtype in cases:
    tokens, images = sum(lengths) + tail, len(lengths)
    generator = torch.Generator().manual_seed(tokens + width)
    q, k, v = (2 * torch.randn(tokens, heads * width, generator=generator) for _ in range(3))
    q, k, v = (x.to(dtype) for x in (q, k, v))
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    segments = torch.repeat_interleave(torch.arange(images + 1), torch.tensor([*lengths, tail])).int()
    found = torch.full_like(q, float("nan"))
    constants = attention_constants(heads, width, width**-0.5)
    grid = attention_grid(tokens, heads, triton.cdiv)
    packed_attention[grid](q, k, v, segments, starts, tokens, images, found, **constants)
    expected = ragged_attention(*(x.view(tokens, heads, width).float() for x in (q, k, v)), segments, segments)
    error = (found.float() - expected.flatten(1)).abs().max().item()
    bound = 1e-5 * expected.abs().max().item() if dtype == torch.float32 else 4e-3
    assert error < bound, (lengths, tail, heads, width, dtype, error)
print(len(cases))
"""

POSITIONS = """
import torch, triton
from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.positions.interpolation import PositionTable
from plugins.kernels.position_interpolation import position_interpolation
from plugins.launches import position_constants, position_grid

grids = [(1, 1), (3, 11), (40, 1)]
coords = torch.cat([torch.cartesian_prod(torch.arange(h), torch.arange(w)) for h, w in grids]).int()
segments = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor([h * w for h, w in grids])).int()
for rows, columns, cubic, width in ((16, 16, False, 64), (3, 20, True, 40)):
    module = PositionTable(Positions((rows, columns), "bicubic" if cubic else "bilinear"), width)
    torch.nn.init.normal_(module.table)
    tokens = len(coords)
    grid_hw = torch.tensor([*grids, (1, 1)], dtype=torch.int32)
    found = torch.full((tokens, width), float("nan"))
    grid = position_grid(tokens, width, triton.cdiv)
    constants = position_constants(rows, columns, width, cubic)
    position_interpolation[grid](coords, grid_hw, segments, module.table.data, tokens, found, **constants)
    expected = module(coords, grid_hw[segments.long()]).detach()
    assert (found - expected).abs().max() < 1e-5, (rows, columns, cubic)
print("ok")
"""

PTX = """
import re
from plugins.kernels.packed_attention import packed_attention
from plugins.kernels.position_interpolation import position_interpolation
from plugins.launches import attention_arguments, attention_constants, position_arguments, position_constants
from plugins.ptx import compile_kernel

for sm in (80, 86, 89, 90, 100, 120):
    for kernel, arguments, constants in (
        (packed_attention, attention_arguments("bf16"), attention_constants(12, 64, 0.125)),
        (position_interpolation, position_arguments("fp16"), position_constants(16, 16, 768, False)),
    ):
        compiled = compile_kernel(kernel, arguments, constants, sm)
        entry = re.search(r"\\.entry (\\w+)\\((.*?)\\)", compiled.ptx, re.S)
        assert entry[1] == compiled.name == kernel.__name__
        kinds = [line.split()[1] for line in entry[2].strip().split(",\\n")]
        assert kinds == [".u64" if kind[0] == "*" else ".u32" for kind in arguments.values()], kinds
        assert f".target sm_{sm}" in compiled.ptx
        assert compiled.shared <= 48 * 1024 and compiled.threads == 128
print("ok")
"""


def run(script: str, *, interpret: bool) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_kernels_equal_the_reference() -> None:
    """Packed attention equals attention image by image: every width of head, ragged lengths, one token, no tail, a tail
    larger than the images, images in one block. Position interpolation equals the reference table."""
    assert run(ATTENTION + POSITIONS, interpret=True) == "10\nok\n"


def test_kernels_compile_for_every_architecture_with_their_own_arguments_alone() -> None:
    """The compiler adds two pointers of its own to an entry; TensorRT would pass nothing for them."""
    assert run(PTX, interpret=False) == "ok\n"
