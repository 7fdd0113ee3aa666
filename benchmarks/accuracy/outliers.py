"""Copies of a model that compute the same in float and that plain int8 cannot represent.

Each takes the portable graph of a model with GELU blocks and returns the changed weights by name. What is multiplied
somewhere is divided, cancelled or ignored further on.
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
"""Where a layer's own large values hide what is a hundred times larger than the rest."""
CHANNELS = 3
"""Of each activation, that stand out."""


def norm_output(weights: Weights) -> Weights:
    """Channels of every LayerNorm's output are 100 times larger, the weights that read them as much smaller."""
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
    """Channels of what attention returns are 1000 times larger, through the values that it mixes."""
    changed: Weights = {}
    for block in blocks(weights):
        channels = _channels(weights[f"{block}.value.bias"], block)
        for kind in ("weight", "bias"):
            changed[f"{block}.value.{kind}"] = _times(weights[f"{block}.value.{kind}"], channels, STRONG)
        name = f"{block}.out.weight"
        changed[name] = _times(weights[name].T, channels, 1 / STRONG).T
    return changed


def hidden(weights: Weights) -> Weights:
    """The MLP has three more channels after its activation, two that cancel and one that a bias takes back.

    Two are the same large function of the token, read with opposite signs. The third is a constant, as GELU leaves
    large values as they are.
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
    """A few tokens carry thousands in every channel of the residual stream, which each LayerNorm takes out again.

    One more channel of an MLP fires for those tokens alone whose normed vector points in some direction.
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
    """``blocks.0``, ``blocks.1``, …"""
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
    """Give an MLP more hidden channels: [n, D] and [n] of the first layer, [D, n] of the second."""
    for name, more, axis in (("fc1.weight", rows, 0), ("fc1.bias", offsets, 0), ("fc2.weight", columns, 1)):
        full = f"{block}.mlp.{name}"
        changed[full] = np.concatenate([weights[full], np.asarray(more, np.float32)], axis)
