"""Folds attention with a learned probe: scores come from one narrow product, and values are projected after pooling.

With a constant query q, keys k = h·Wk + bk and values v = h·Wv + bv of the same tokens h, each head has

    scores = scale·k·q = h·(scale·Wk·q) + const        where softmax is invariant to the constant
    Σ p·v  = (Σ p·h)·Wv + bv                           since Σ p = 1

so keys and values are never computed for each token: one [T, D]·[D, heads] replaces two [T, D]·[D, D].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.functions import DOMAIN
from naflex_deploy.compiler.passes.graphs import Array, Model, evaluate, label, producer, sources_of
from naflex_deploy.compiler.passes.linear import Linear, linear_of


@dataclass(frozen=True)
class Found:
    """An attention whose query is constant."""

    attention: gs.Node
    probe: Array
    key: Linear
    value: Linear


def match(model: Model) -> Iterator[gs.Node]:
    """Fused attentions whose queries belong to images instead of tokens."""
    for node in model.graph.nodes:
        if node.op == "PackedAttention" and node.inputs[3] is not node.inputs[4]:
            yield node


def check(model: Model, node: gs.Node) -> Found | str:
    """Check that the query is one constant row, and that keys and values are linear in the same tokens."""
    query, key, value = node.inputs[:3]
    if sources := sources_of(model, query):
        return f"its query is computed from {', '.join(sorted(sources))}"
    probe = query.values if isinstance(query, gs.Constant) else evaluate(query, [], model.graph.opset)
    if isinstance(probe, str):
        return probe
    if len(probe) != 1:
        return f"it has {len(probe)} queries"
    keys, values = linear_of(key), linear_of(value)
    if keys is None or values is None:
        name, tensor = ("keys", key) if keys is None else ("values", value)
        source = producer(tensor)
        return f"its {name} come from {source.op if source else 'an input'}, not from a linear layer"
    if keys.x is not values.x:
        return "its keys and values come from different tokens"
    return Found(node, probe, keys, values)


def rewrite(model: Model, found: Found) -> str:
    """Pool the tokens first, and project the result."""
    node, keys, values = found.attention, found.key, found.value
    heads, dtype = int(node.attrs["heads"]), keys.weight.dtype
    per_head = keys.weight.astype(np.float64).reshape(len(keys.weight), heads, -1)
    probe = float(node.attrs["scale"]) * found.probe.astype(np.float64).reshape(heads, -1)
    scorer = model.constant("probe_scorer", np.einsum("xhd,hd->xh", per_head, probe).astype(dtype))
    by_head = values.weight.reshape(len(values.weight), heads, -1).transpose(1, 0, 2)
    (context,) = node.outputs
    images, segments = node.inputs[3:]
    node.outputs.clear()
    name = label(node, "ProbePool")
    pooled, mixed, turned, merged = (model.variable(f"{name}/{step}") for step in ("pooled", "mixed", "turned", "rows"))
    weight, bias = model.constant("probe_values", by_head), model.constant("probe_bias", values.bias)
    shape = model.constant("rows_shape", np.array([0, -1], np.int64))
    model.graph.nodes += [
        gs.Node("ProbePool", name, {}, [keys.x, scorer, images, segments], [pooled], domain=DOMAIN),
        gs.Node("MatMul", label(node, "MatMul"), {}, [pooled, weight], [mixed]),
        gs.Node("Transpose", label(node, "Transpose"), {"perm": [1, 0, 2]}, [mixed], [turned]),
        gs.Node("Reshape", label(node, "Reshape"), {}, [turned, shape], [merged]),
        gs.Node("Add", label(node, "Add"), {}, [merged, bias], [context]),
    ]
    return name
