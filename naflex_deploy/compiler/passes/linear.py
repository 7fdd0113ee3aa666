"""Recognises linear layers, whether they are written as a Gemm or as a MatMul with an Add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Array, Model, label, producer


@dataclass(frozen=True)
class Linear:
    """``y = x·weight + bias``.

    Attributes:
        x: Input, [T, D].
        weight: Weight, [D, E] float.
        bias: Bias, [E] float; zeros if the layer has none.
        y: Output, [T, E].
        node: The last node of the layer.
    """

    x: gs.Tensor
    weight: Array
    bias: Array
    y: gs.Tensor
    node: gs.Node


def linear_of(tensor: gs.Tensor) -> Linear | None:
    """The linear layer that computes a tensor; ``None`` if something else does."""
    node = producer(tensor)
    if node is None:
        return None
    if node.op == "Gemm":
        return _gemm(node)
    if node.op == "MatMul" and isinstance(node.inputs[1], gs.Constant) and node.inputs[1].values.ndim == 2:
        weight = node.inputs[1].values
        return Linear(node.inputs[0], weight, np.zeros(weight.shape[1], weight.dtype), tensor, node)
    if node.op == "Add":
        for product, bias in (node.inputs, reversed(node.inputs)):
            inner = producer(product)
            if isinstance(bias, gs.Constant) and bias.values.ndim == 1 and inner is not None and inner.op == "MatMul":
                layer = linear_of(product)
                return layer and Linear(layer.x, layer.weight, bias.values, tensor, node)
    return None


def _gemm(node: gs.Node) -> Linear | None:
    plain = all(node.attrs.get(key, default) == default for key, default in (("alpha", 1), ("beta", 1), ("transA", 0)))
    if not plain or not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:]):
        return None
    weight = node.inputs[1].values.T if node.attrs.get("transB", 0) else node.inputs[1].values
    bias = node.inputs[2].values.reshape(-1) if len(node.inputs) > 2 else np.zeros(1, weight.dtype)
    return Linear(node.inputs[0], weight, np.broadcast_to(bias, weight.shape[1:]), node.outputs[0], node)


def add_linear(model: Model, x: gs.Tensor, weight: Array, bias: Array, y: gs.Tensor, like: gs.Node) -> gs.Node:
    """Append a Gemm of a [D, E] weight.

    Args:
        model: The graph.
        x: Input, [T, D].
        weight: Weight, [D, E].
        bias: Bias, [E].
        y: Output, [T, E].
        like: The node to replace, whose name and weight names the new node takes.
    """
    names = [t.name for t in like.inputs if isinstance(t, gs.Constant)] or [f"{like.name}.weight"]
    constants = [model.constant(names[0], weight)]
    model.graph.nodes.append(node := gs.Node("Gemm", label(like, "Gemm"), {}, [x, *constants], [y]))
    node.inputs.append(model.constant(names[-1] if len(names) > 1 else f"{names[0]}.bias", bias))
    return node
