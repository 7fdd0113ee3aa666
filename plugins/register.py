"""Registers the kernels as ahead-of-time plugins of TensorRT, 10.16 or later: importing this module is all.

TensorRT asks for PTX while it builds and embeds it in the engine, which then needs neither Python nor Triton. Graphs
name the plugins by operators ``packed_attention`` and ``position_interpolation`` with ``plugin_namespace`` "naflex",
and the network is made with the flag PREFER_AOT_PYTHON_PLUGINS.
"""

# TensorRT reads the annotations of what it registers, so they have to be objects: no `from __future__` here.
from typing import List, Tuple, Union  # noqa: UP035

import tensorrt as trt
import tensorrt.plugin as trtp
from triton.runtime import driver

from .kernels.packed_attention import packed_attention
from .kernels.position_interpolation import position_interpolation
from .launches import (
    attention_arguments,
    attention_constants,
    attention_grid,
    position_arguments,
    position_constants,
    position_grid,
)
from .ptx import Compiled, compile_kernel

Kernel = Tuple[Union[str, bytes], Union[str, bytes], trtp.KernelLaunchParams, trtp.SymExprs]  # noqa: UP006, UP007

DTYPES = {trt.float16: "fp16", trt.bfloat16: "bf16", trt.float32: "fp32"}
FLOATS = "FP16|BF16|FP32"


@trtp.register("naflex::packed_attention")
def describe_attention(
    query: trtp.TensorDesc,
    key: trtp.TensorDesc,
    value: trtp.TensorDesc,
    segments: trtp.TensorDesc,
    starts: trtp.TensorDesc,
    heads: int,
    scale: float,
) -> trtp.TensorDesc:
    return query.like()


@trtp.autotune("naflex::packed_attention")
def formats_of_attention(
    query: trtp.TensorDesc,
    key: trtp.TensorDesc,
    value: trtp.TensorDesc,
    segments: trtp.TensorDesc,
    starts: trtp.TensorDesc,
    outputs: Tuple[trtp.TensorDesc],  # noqa: UP006
) -> List[trtp.AutoTuneCombination]:  # noqa: UP006
    return [trtp.AutoTuneCombination(f"{FLOATS}, {FLOATS}, {FLOATS}, INT32, INT32, {FLOATS}", "LINEAR")]


@trtp.aot_impl("naflex::packed_attention")
def compile_attention(
    query: trtp.TensorDesc,
    key: trtp.TensorDesc,
    value: trtp.TensorDesc,
    segments: trtp.TensorDesc,
    starts: trtp.TensorDesc,
    heads: int,
    scale: float,
    outputs: Tuple[trtp.TensorDesc],  # noqa: UP006
    tactic: int,
) -> Kernel:
    width = int(query.shape_expr[1].constant_value()) // heads
    compiled = compile_kernel(
        packed_attention,
        attention_arguments(DTYPES[query.dtype]),
        attention_constants(heads, width, scale),
        _architecture(),
    )
    tokens, images = query.shape_expr[0], starts.shape_expr[0] - 1
    return _kernel(compiled, attention_grid(tokens, heads, trtp.cdiv), (tokens, images))


@trtp.register("naflex::position_interpolation")
def describe_positions(
    coords: trtp.TensorDesc,
    grids: trtp.TensorDesc,
    segments: trtp.TensorDesc,
    table: trtp.TensorDesc,
    rows: int,
    columns: int,
    cubic: bool,
) -> trtp.TensorDesc:
    positions = table.like()
    positions.shape_expr[0] = coords.shape_expr[0]
    return positions


@trtp.autotune("naflex::position_interpolation")
def formats_of_positions(
    coords: trtp.TensorDesc,
    grids: trtp.TensorDesc,
    segments: trtp.TensorDesc,
    table: trtp.TensorDesc,
    outputs: Tuple[trtp.TensorDesc],  # noqa: UP006
) -> List[trtp.AutoTuneCombination]:  # noqa: UP006
    return [trtp.AutoTuneCombination(f"INT32, INT32, INT32, {FLOATS}, {FLOATS}", "LINEAR")]


@trtp.aot_impl("naflex::position_interpolation")
def compile_positions(
    coords: trtp.TensorDesc,
    grids: trtp.TensorDesc,
    segments: trtp.TensorDesc,
    table: trtp.TensorDesc,
    rows: int,
    columns: int,
    cubic: bool,
    outputs: Tuple[trtp.TensorDesc],  # noqa: UP006
    tactic: int,
) -> Kernel:
    width = int(table.shape_expr[1].constant_value())
    compiled = compile_kernel(
        position_interpolation,
        position_arguments(DTYPES[table.dtype]),
        position_constants(rows, columns, width, cubic),
        _architecture(),
    )
    tokens = coords.shape_expr[0]
    return _kernel(compiled, position_grid(tokens, width, trtp.cdiv), (tokens,))


def _architecture() -> int:
    """That of the GPU at hand, which is the one that TensorRT builds for."""
    return int(driver.active.get_current_target().arch)


def _kernel(compiled: Compiled, grid: tuple, integers: tuple) -> Kernel:  # type: ignore[type-arg]
    launch = trtp.KernelLaunchParams()
    launch.grid_x, launch.grid_y = grid
    launch.block_x = compiled.threads
    launch.shared_mem = compiled.shared
    scalars = trtp.SymIntExprs(len(integers))
    for index, value in enumerate(integers):
        scalars[index] = trtp.SymInt32(value)
    return compiled.name, compiled.ptx, launch, scalars
