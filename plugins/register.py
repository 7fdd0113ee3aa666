"""Registers the kernels as ahead-of-time plugins of TensorRT 10.16 or later, as soon as this module is imported.

TensorRT asks for PTX while it builds and embeds it in the engine, which then needs neither Python nor Triton. A graph
refers to the plugins as the operators ``packed_attention`` and ``position_interpolation`` with the
``plugin_namespace`` "naflex".
"""

# TensorRT reads the annotations of the functions it registers. They have to be objects, so there is no
# `from __future__ import annotations` here.
import inspect
from collections.abc import Callable
from typing import Any, List, Tuple, TypeVar, Union  # noqa: UP035

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

Kernel = Tuple[Union[str, bytes], Union[str, bytes], trtp.KernelLaunchParams, trtp.SymIntExprs]  # noqa: UP006, UP007
Compile = TypeVar("Compile", bound=Callable[..., Kernel])

DTYPES = {trt.float16: "fp16", trt.bfloat16: "bf16", trt.float32: "fp32"}
FLOATS = "FP16|BF16|FP32"


def plugin(name: str, describe: Callable[..., trtp.TensorDesc], types: tuple[str, ...]) -> Callable[[Compile], Compile]:
    """Register a plugin with the decorated function, which compiles it.

    That function's parameters are the plugin's tensors, its attributes, ``outputs`` and ``tactic``.

    Args:
        name: Name of the plugin in the namespace ``naflex``.
        describe: Derives the description of the output from those of the tensors.
        types: Types of each tensor and of the output.
    """

    def decorate(compile_: Compile) -> Compile:
        *own, outputs, _ = inspect.signature(compile_).parameters.values()
        tensors = [parameter for parameter in own if parameter.annotation is trtp.TensorDesc]

        def described(*arguments: Any, **_: Any) -> trtp.TensorDesc:
            return describe(*arguments[: len(tensors)])

        def formats(*_: Any) -> Any:
            return [trtp.AutoTuneCombination(", ".join(types), "LINEAR")]

        combinations = List[trtp.AutoTuneCombination]  # noqa: UP006
        described.__signature__ = inspect.Signature(own, return_annotation=trtp.TensorDesc)  # type: ignore[attr-defined]
        formats.__signature__ = inspect.Signature([*tensors, outputs], return_annotation=combinations)  # type: ignore[attr-defined]
        trtp.register(f"naflex::{name}")(described)
        trtp.autotune(f"naflex::{name}")(formats)
        trtp.aot_impl(f"naflex::{name}")(compile_)
        return compile_

    return decorate


@plugin("packed_attention", lambda query, *_: query.like(), (FLOATS, FLOATS, FLOATS, "INT32", "INT32", FLOATS))
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


def _positions(coords: trtp.TensorDesc, grids: object, segments: object, table: trtp.TensorDesc) -> trtp.TensorDesc:
    positions = table.like()
    positions.shape_expr[0] = coords.shape_expr[0]
    return positions


@plugin("position_interpolation", _positions, ("INT32", "INT32", "INT32", FLOATS, FLOATS))
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
    """The architecture of the GPU at hand, which is the one that TensorRT builds for."""
    return int(driver.active.get_current_target().arch)


def _kernel(compiled: Compiled, grid: tuple, integers: tuple) -> Kernel:  # type: ignore[type-arg]
    launch = trtp.KernelLaunchParams()
    launch.grid_x, launch.grid_y = grid
    launch.block_x = compiled.threads
    launch.shared_mem = compiled.shared
    return compiled.name, compiled.ptx, launch, trtp.SymIntExprs.from_tuple([trtp.SymInt32(n) for n in integers])
