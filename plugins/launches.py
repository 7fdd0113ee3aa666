"""The launch parameters of the kernels, which are the same on every architecture: blocks and types of arguments."""

from __future__ import annotations

from typing import Any

from triton import next_power_of_2

BLOCK_Q, BLOCK_K = 64, 32
BLOCK_T, BLOCK_D = 32, 64


def attention_arguments(dtype: str) -> dict[str, str]:
    """Types of the arguments of `packed_attention` for a ``dtype`` of fp16, bf16 or fp32."""
    floats, integers = f"*{dtype}", "*i32"
    return {
        "query": floats,
        "key": floats,
        "value": floats,
        "segments": integers,
        "starts": integers,
        "tokens": "i32",
        "images": "i32",
        "context": floats,
    }


def attention_constants(heads: int, width: int, scale: float) -> dict[str, Any]:
    """Constants of `packed_attention` for heads of ``width`` channels."""
    return {
        "HEADS": heads,
        "WIDTH": width,
        "PADDED": max(16, next_power_of_2(width)),
        "SCALE": scale,
        "BLOCK_Q": BLOCK_Q,
        "BLOCK_K": BLOCK_K,
    }


def attention_grid(tokens: Any, heads: int, cdiv: Any) -> tuple[Any, Any]:
    """Launch grid of `packed_attention`."""
    return cdiv(tokens, BLOCK_Q), heads


def position_arguments(dtype: str) -> dict[str, str]:
    """Types of the arguments of `position_interpolation`."""
    floats, integers = f"*{dtype}", "*i32"
    return {
        "coords": integers,
        "grids": integers,
        "segments": integers,
        "table": floats,
        "tokens": "i32",
        "positions": floats,
    }


def position_constants(rows: int, columns: int, width: int, cubic: bool) -> dict[str, Any]:
    """Constants of `position_interpolation` for a table of rows × columns entries of ``width`` channels."""
    return {
        "ROWS": rows,
        "COLUMNS": columns,
        "WIDTH": width,
        "CUBIC": cubic,
        "PADDED_ROWS": max(16, next_power_of_2(rows)),
        "PADDED_COLUMNS": max(16, next_power_of_2(columns)),
        "BLOCK_T": BLOCK_T,
        "BLOCK_D": BLOCK_D,
    }


def position_grid(tokens: Any, width: int, cdiv: Any) -> tuple[Any, Any]:
    """Launch grid of `position_interpolation`."""
    return cdiv(tokens, BLOCK_T), -(-width // BLOCK_D)
