"""Fuses ``softmax(where(same segment, scale·q·kᵀ, -3e4))·v`` over a pack into one `PackedAttention`.

The candidates are softmaxes. The operators around one can be arranged in many ways, so the pass evaluates the scores on
random queries and keys, and the mix of values on random weights, and compares both with the formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.functions import DOMAIN
from naflex_deploy.compiler.passes.graphs import (
    LAYOUT,
    Array,
    Model,
    evaluate,
    label,
    producer,
    scalar,
    sources_of,
    through_layout,
)
from naflex_deploy.core.pack import Role

LOW = -1e4
"""Largest fill value of a mask; any real score is far above it."""
PRODUCTS = ("MatMul", "FusedMatMul")
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Rows:
    """A tensor that holds [T, H, d], in some order of axes.

    Attributes:
        tensor: The tensor, of rank 3, or of rank 2 if heads and channels share an axis.
        order: Permutation of its axes to (T, H, d); ``None`` at rank 2.
    """

    tensor: gs.Tensor
    order: tuple[int, ...] | None


@dataclass(frozen=True)
class Found:
    """An attention that was recognised."""

    softmax: gs.Node
    query: Rows
    key: Rows
    value: Rows
    query_segments: gs.Tensor
    segments: gs.Tensor
    heads: int
    scale: float
    context: gs.Tensor


def match(model: Model) -> Iterator[gs.Node]:
    """Every softmax over values that depend on pixels."""
    for node in model.graph.nodes:
        if node.op == "Softmax" and Role.PATCHES in sources_of(model, node.inputs[0]):
            yield node


def check(model: Model, node: gs.Node) -> Found | str:
    """Check that a softmax belongs to a masked attention."""
    if node.attrs.get("axis", -1) not in (-1, 2):
        return f"its axis is {node.attrs['axis']}, not that of the keys"
    where = producer(node.inputs[0])
    if where is None or where.op != "Where":
        return f"its scores come from {where.op if where else 'an input'}, not from Where(mask, scores, fill)"
    mask, masked_scores, fill = where.inputs
    value = scalar(fill)
    if value is None or value > LOW:
        return f"masked scores become {'a tensor' if value is None else value}, expected a constant of at most {LOW:g}"
    segments = _segments(model, mask)
    if isinstance(segments, str):
        return segments
    product = _product(masked_scores)
    if product is None:
        return "its scores are not the product of two matrices"
    scores = _scores(model, masked_scores, product)
    if isinstance(scores, str):
        return scores
    query, key, heads, scale = scores
    mixed = _mixed(model, node.outputs[0], heads)
    if isinstance(mixed, str):
        return mixed
    values, context = mixed
    return Found(node, query, key, values, *segments, heads, scale, context)


def rewrite(model: Model, found: Found) -> str:
    """Replace the attention by one node."""
    name = label(found.softmax, "PackedAttention")
    inputs = [_as_matrix(model, rows, name) for rows in (found.query, found.key, found.value)]
    found.context.inputs.clear()
    model.graph.nodes.append(
        gs.Node(
            "PackedAttention",
            name,
            attrs={"heads": found.heads, "scale": found.scale},
            inputs=[*inputs, found.query_segments, found.segments],
            outputs=[found.context],
            domain=DOMAIN,
        )
    )
    return name


def _segments(model: Model, mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor] | str:
    """The [Tq] and [T] segments whose equality is the mask."""
    equal = producer(through_layout(mask))
    if equal is None or equal.op != "Equal":
        return f"its mask comes from {equal.op if equal else 'an input'}, not from Equal(segments, segments)"
    first, second = (through_layout(tensor) for tensor in equal.inputs)
    if first is second:
        probe = np.array([0, 0, 1, 3], _dtype(first))
        found = evaluate(mask, [(first, probe)], model.graph.opset)
        wanted = probe[:, None] == probe
        orders = [(first, first, wanted)]
    else:
        a, b = np.array([0, 1, 3], _dtype(first)), np.array([0, 0, 1, 2], _dtype(second))
        found = evaluate(mask, [(first, a), (second, b)], model.graph.opset)
        orders = [(first, second, a[:, None] == b), (second, first, b[:, None] == a)]
    if isinstance(found, str):
        return found
    for query, key, wanted in orders:
        if found.size == wanted.size and np.array_equal(found.reshape(wanted.shape), wanted):
            return query, key
    return "its mask is not the equality of the segments of query and key"


def _product(tensor: gs.Tensor) -> gs.Node | None:
    node = producer(through_layout(tensor))
    return node if node is not None and node.op in PRODUCTS else None


def _scores(model: Model, scores: gs.Tensor, product: gs.Node) -> tuple[Rows, Rows, int, float] | str:
    """The query, key, heads and scale of ``scale·q·kᵀ``, or the reason why the scores are not of that form."""
    query, key = (through_layout(tensor) for tensor in product.inputs)
    rng = np.random.default_rng(0)
    feeds = [(t, v) for t, v in ((query, _draw(rng, query, 5)), (key, _draw(rng, key, 7))) if v is not None]
    if len(feeds) < 1 + (not isinstance(query, gs.Constant)):
        return f"the shape of '{query.name}' or '{key.name}' is unknown"
    found = evaluate(scores, feeds, model.graph.opset)
    if isinstance(found, str):
        return found
    if found.ndim != 3:
        return f"its scores have {found.ndim} axes, expected heads, queries, keys"
    heads = found.shape[0]
    values = {id(tensor): value for tensor, value in feeds}
    for q in _arrangements(query, heads, values.get(id(query))):
        for k in _arrangements(key, heads, values.get(id(key))):
            product_of = np.einsum("qhd,khd->hqk", q[1], k[1]) if q[1].shape[2] == k[1].shape[2] else np.zeros(0)
            if product_of.shape == found.shape:
                scale = float((found * product_of).sum() / (product_of**2).sum())
                if _close(found, scale * product_of):
                    return q[0], k[0], heads, scale
    return "its scores are not scale·q·kᵀ of heads of equal width"


def _mixed(model: Model, weights: gs.Tensor, heads: int) -> tuple[Rows, gs.Tensor] | str:
    """The values, and the [Tq, H·d] tensor that holds their mix."""
    if len(weights.outputs) != 1 or weights.outputs[0].op not in PRODUCTS:
        return "its weights are used for something other than mixing values"
    product = weights.outputs[0]
    if product.inputs[0] is not weights:
        return "its weights are the right factor of the product"
    source = through_layout(product.inputs[1])
    rng = np.random.default_rng(1)
    drawn = _draw(rng, source, 7)
    if drawn is None:
        return f"the shape of '{source.name}' is unknown"
    p = rng.standard_normal((heads, 5, 7)).astype(np.float32)
    context = product.outputs[0]
    while len(context.outputs) == 1 and context.outputs[0].op in LAYOUT and context not in model.graph.outputs:
        context = context.outputs[0].outputs[0]
        found = evaluate(context, [(weights, p), (source, drawn)], model.graph.opset)
        if isinstance(found, str):
            return found
        for rows, v in _arrangements(source, heads, drawn):
            wanted = np.einsum("hqk,khd->qhd", p, v).reshape(5, -1)
            if found.shape == wanted.shape and _close(found, wanted):
                return rows, context
    return "its mixed values do not return to one row per token"


def _arrangements(tensor: gs.Tensor, heads: int, values: Array | None) -> Iterator[tuple[Rows, Array]]:
    """Yield every way in which a tensor can hold [T, H, d]."""
    held = values if values is not None else np.asarray(tensor.values)
    if held.ndim == 2 and held.shape[1] % heads == 0:
        yield Rows(tensor, None), held.reshape(len(held), heads, -1)
    elif held.ndim == 3:
        for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
            turned = held.transpose(order)
            if turned.shape[1] == heads:
                yield Rows(tensor, order), turned


def _as_matrix(model: Model, rows: Rows, name: str) -> gs.Tensor:
    """A [T, H·d] tensor with the same values."""
    if rows.order is None:
        return rows.tensor
    if isinstance(rows.tensor, gs.Constant):
        values = rows.tensor.values.transpose(rows.order)
        return model.constant(rows.tensor.name, values.reshape(len(values), -1))
    tensor = rows.tensor
    if rows.order != (0, 1, 2):
        turned = model.variable(f"{name}/turned")
        model.graph.nodes.append(
            gs.Node("Transpose", turned.name, attrs={"perm": list(rows.order)}, inputs=[tensor], outputs=[turned])
        )
        tensor = turned
    merged = model.variable(f"{name}/rows")
    tokens, heads, width = (rows.tensor.shape[axis] for axis in rows.order)
    merged.dtype, merged.shape = np.float32, [tokens, heads * width]
    shape = model.constant("rows_shape", np.array([0, -1], np.int64))
    model.graph.nodes.append(gs.Node("Reshape", merged.name, inputs=[tensor, shape], outputs=[merged]))
    return merged


def _draw(rng: np.random.Generator, tensor: gs.Tensor, tokens: int) -> Array | None:
    """Random values for a tensor, with ``tokens`` along its unknown axis; ``None`` for constants and unknown shapes."""
    if isinstance(tensor, gs.Constant) or tensor.shape is None:
        return None
    shape = [size if isinstance(size, int) else tokens for size in tensor.shape]
    return rng.standard_normal(shape).astype(np.float32)


def _dtype(tensor: gs.Tensor) -> np.dtype[np.generic]:
    return np.dtype(tensor.dtype if tensor.dtype is not None else np.int32)


def _close(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max())
