"""Makes copies of a model that compute the same in float, but that plain int8 cannot represent.

Each function takes the weights of a model with GELU blocks and returns the changed ones by name. Whatever it enlarges
is divided, cancelled or ignored later in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Float = npt.NDArray[np.float32]
Weights = dict[str, Float]

FACTOR = 100.0
STRONG = 1000.0
"""Factor for layers whose own values are so large that a factor of 100 would not stand out."""
CHANNELS = 3
"""Number of channels of each activation that stand out."""


def norm_output(weights: Weights) -> Weights:
    """Make channels of every LayerNorm's output 100 times larger, and the weights that read them 100 times smaller."""
    changed: Weights = {}
    for block in blocks(weights):
        for norm, readers in (("norm1", ("query", "key", "value")), ("norm2", ("mlp.fc1",))):
            channels = _channels(weights[f"{block}.{norm}.weight"], block)
            for kind in ("weight", "bias"):
                changed[f"{block}.{norm}.{kind}"] = _times(weights[f"{block}.{norm}.{kind}"], channels, FACTOR)
            for reader in readers:
                name = f"{block}.{reader}.weight"
                changed[name] = _times(changed.get(name, weights[name]).T, channels, 1 / FACTOR).T
    return changed


def attention_output(weights: Weights) -> Weights:
    """Make channels of the attention output 1000 times larger, by way of the value projection."""
    changed: Weights = {}
    for block in blocks(weights):
        channels = _channels(weights[f"{block}.value.bias"], block)
        for kind in ("weight", "bias"):
            changed[f"{block}.value.{kind}"] = _times(weights[f"{block}.value.{kind}"], channels, STRONG)
        name = f"{block}.out.weight"
        changed[name] = _times(weights[name].T, channels, 1 / STRONG).T
    return changed


def hidden(weights: Weights) -> Weights:
    """Add three large channels after the MLP's activation, which later layers cancel.

    Two are the same large function of the token, and are read with opposite signs. The third is a constant, because
    GELU leaves large values unchanged, and a bias subtracts it again.
    """
    changed: Weights = {}
    for block in blocks(weights):
        rng = _rng(block)
        width = len(weights[f"{block}.norm2.weight"])
        direction = rng.standard_normal(width) * STRONG / width**0.5
        rows = np.stack([direction, direction, np.zeros(width)])
        read = rng.standard_normal(width) * np.abs(weights[f"{block}.mlp.fc2.weight"]).mean()
        columns = np.stack([read, -read, read[::-1]], axis=1)
        _widen(changed, weights, block, rows, np.array([0.0, 0.0, STRONG]), columns)
        changed[f"{block}.mlp.fc2.bias"] = (weights[f"{block}.mlp.fc2.bias"] - STRONG * columns[:, 2]).astype(
            np.float32
        )
    return changed


def massive_tokens(weights: Weights) -> Weights:
    """Make a few tokens carry thousands in every channel of the residual stream, which each LayerNorm removes again.

    An additional channel of an MLP fires only for tokens whose normalised vector points in some direction.
    """
    changed: Weights = {}
    for block in blocks(weights)[:2]:
        rng = _rng(block)
        gamma = weights[f"{block}.norm2.weight"].astype(np.float64)
        direction = rng.standard_normal(len(gamma))
        direction /= np.linalg.norm(direction * gamma)
        centre = direction @ weights[f"{block}.norm2.bias"]
        rows, offsets = 30 * direction[None], np.array([-30 * (centre + 2.5)])
        _widen(changed, weights, block, rows, offsets, np.full((len(gamma), 1), FACTOR))
    return changed


KINDS: Mapping[str, Callable[[Weights], Weights]] = {
    "LayerNorm output": norm_output,
    "out_proj input": attention_output,
    "fc2 input": hidden,
    "massive tokens": massive_tokens,
}


def inject(portable: Path, folder: Path, change: Callable[[Weights], Weights]) -> Path:
    """Write a changed copy of a portable graph; returns its path."""
    graph = onnx.load(str(portable))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    changed = change(weights)
    for tensor in graph.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed[tensor.name]), tensor.name))
    del graph.graph.value_info[:]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "portable.onnx"
    onnx.save(graph, str(path), save_as_external_data=True, location=f"{path.name}.data")
    return path


def blocks(weights: Mapping[str, Float]) -> list[str]:
    """Names of the blocks, ``blocks.0``, ``blocks.1``, …"""
    found = {match[1] for name in weights if (match := re.match(r"(blocks\.\d+)\.", name))}
    return sorted(found, key=lambda block: int(block.rpartition(".")[2]))


def _channels(vector: Float, block: str) -> npt.NDArray[np.int64]:
    return _rng(block).choice(len(vector), CHANNELS, replace=False)


def _rng(block: str) -> np.random.Generator:
    return np.random.default_rng(int(block.rpartition(".")[2]))


def _times(values: Float, rows: npt.NDArray[np.int64], factor: float) -> Float:
    found = values.copy()
    found[rows] *= np.float32(factor)
    return found


def _widen(
    changed: Weights, weights: Weights, block: str, rows: npt.ArrayLike, offsets: npt.ArrayLike, columns: npt.ArrayLike
) -> None:
    """Add n hidden channels to an MLP: rows [n, D] and offsets [n] of the first layer, columns [D, n] of the second."""
    for name, more, axis in (("fc1.weight", rows, 0), ("fc1.bias", offsets, 0), ("fc2.weight", columns, 1)):
        full = f"{block}.mlp.{name}"
        changed[full] = np.concatenate([weights[full], np.asarray(more, np.float32)], axis)
