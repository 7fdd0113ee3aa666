"""Rewrites attention over a pack for engines with strongly typed graphs; holds the parts that these targets share.

``segment``: queries of the whole pack attend to keys of the whole pack, as in the portable graph.

``rows``: images are laid out in rows of L tokens, attention runs along each row and compares segments inside it, and
tokens return to their places. That takes R·L² scores instead of T²; with one row it is the segment form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.functions import MASKED
from naflex_deploy.compiler.passes.graphs import Model, label
from naflex_deploy.compiler.passes.manager import run
from naflex_deploy.core.pack import Role

FLOAT, INT, BOOL = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.bool_)


class Builder:
    """Appends nodes whose outputs have a known type, which the conversion of precision relies on."""

    def __init__(self, model: Model, scope: str) -> None:
        self.model = model
        self.scope = scope
        self.count = 0

    def __call__(
        self, op: str, *inputs: gs.Tensor, dtype: npt.DTypeLike = FLOAT, domain: str | None = None, **attributes: object
    ) -> gs.Variable:
        """Append a node with one output, and return that output."""
        self.count += 1
        output = gs.Variable(f"{self.scope}/{op}_{self.count}", dtype)
        self.model.graph.nodes.append(gs.Node(op, output.name, dict(attributes), list(inputs), [output], domain=domain))
        return output

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike) -> gs.Constant:
        self.count += 1
        return gs.Constant(f"{self.scope}/constant_{self.count}", np.asarray(values, dtype))

    def integers(self, *values: int) -> gs.Constant:
        """A [n] int64 constant."""
        return self.constant(values, np.int64)


Rewrite = Callable[[Builder, gs.Node], gs.Variable]
"""Takes a fused attention node and returns the tensor that replaces its output."""


def rewrite_attention(model: Model, form: Callable[[Model], Rewrite]) -> int:
    """Rewrite every self-attention of the tokens, in place; returns how many there were.

    Attention of a learned probe to an image's tokens always takes the segment form: it has M queries, not T.

    Args:
        form: Adds to the graph what all layers share, and returns the function that rewrites one attention.

    Raises:
        PassError: An attention was not recognised.
    """
    run(model, ("fuse_attention",), complete=("fuse_attention",))
    for tensor in model.graph.tensors().values():
        if tensor.dtype is None:  # These are the reshaped queries, keys and values that fusing left untyped.
            tensor.dtype = FLOAT
    attentions = [node for node in model.graph.nodes if node.op == "PackedAttention"]
    own = [node for node in attentions if node.inputs[3] is node.inputs[4]]
    rewrite = form(model)
    for node in attentions:
        b = Builder(model, label(node, "Attention"))
        replace(node, rewrite(b, node) if node in own else segment(b, node))
    model.graph.cleanup().toposort()
    return len(own)


def segment(b: Builder, node: gs.Node) -> gs.Variable:
    """Attention of the whole pack to the whole pack, masked to segments."""
    query, key, value, query_segments, segments = node.inputs
    heads = node.attrs["heads"]
    shape = b.integers(0, heads, -1)
    q, k, v = (
        b("Transpose", b("Reshape", tensor, shape), perm=perm)
        for tensor, perm in ((query, [1, 0, 2]), (key, [1, 2, 0]), (value, [1, 0, 2]))
    )
    rows = b("Unsqueeze", query_segments, b.integers(1), dtype=query_segments.dtype)
    columns = b("Unsqueeze", segments, b.integers(0), dtype=segments.dtype)
    context = attend(b, q, k, v, b("Equal", rows, columns, dtype=BOOL), node.attrs["scale"])
    return b("Reshape", b("Transpose", context, perm=[1, 0, 2]), b.integers(0, -1))


@dataclass(frozen=True)
class Rows:
    """The layout of tokens in rows, computed once for all layers.

    Attributes:
        index: [R, L] int32, the token at each place; an arbitrary one at places that hold none.
        unpad: [T] int32, the place of each token in the flattened rows.
        same: [R, 1, L, L] bool, whether two places of a row hold tokens of the same image.
    """

    index: gs.Tensor
    unpad: gs.Tensor
    same: gs.Tensor


def lay_out(model: Model) -> Rows:
    """Add the graph inputs that lay images out in rows."""
    pad, unpad = (gs.Variable(role.value, INT) for role in (Role.PAD_INDEX, Role.UNPAD_INDEX))
    pad.shape, unpad.shape = ["rows", "row_tokens"], ["tokens"]
    model.graph.inputs += [pad, unpad]
    b = Builder(model, "rows")
    index = b("Max", pad, b.constant(0, INT), dtype=INT)
    segments = b("Gather", model.input(Role.SEGMENT_IDS), index, axis=0, dtype=INT)
    there = b("GreaterOrEqual", pad, b.constant(0, INT), dtype=BOOL)
    segments = b("Where", there, segments, b.constant(-1, INT), dtype=INT)
    same = b(
        "Equal",
        b("Unsqueeze", segments, b.integers(1, 3), dtype=INT),
        b("Unsqueeze", segments, b.integers(1, 2), dtype=INT),
        dtype=BOOL,
    )
    return Rows(index, unpad, same)


def sequence_ends(model: Model) -> gs.Variable:
    """Add the input of cumulative lengths, and append the end of the tail: [M + 2], so every token has a sequence."""
    lengths = gs.Variable(Role.CU_SEQLENS.value, INT, ["images+1"])
    model.graph.inputs.append(lengths)
    b = Builder(model, "packed")
    tokens = b("Cast", b("Shape", model.input(Role.SEGMENT_IDS), dtype=np.int64), to=onnx.TensorProto.INT32, dtype=INT)
    return b("Concat", lengths, tokens, axis=0, dtype=INT)


def attend(
    b: Builder, query: gs.Tensor, key: gs.Tensor, value: gs.Tensor, same: gs.Tensor, scale: float
) -> gs.Variable:
    """Compute ``softmax(where(same, scale·q·k, -3e4))·v``; the key is already transposed."""
    scores = b("MatMul", b("Mul", query, b.constant(scale, FLOAT)), key)
    own = b("Where", same, scores, b.constant(MASKED, FLOAT))
    return b("MatMul", b("Softmax", own, axis=-1), value)


def replace(node: gs.Node, result: gs.Variable) -> None:
    """Make every reader of the node's output read ``result`` instead."""
    (old,) = node.outputs
    (producer,) = result.inputs
    old.dtype = result.dtype
    node.outputs.clear()
    producer.outputs[producer.outputs.index(result)] = old
