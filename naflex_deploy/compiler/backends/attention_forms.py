"""Rewriting attention over a pack for engines whose graphs carry types: what targets share.

``segment``: queries of the whole pack against keys of the whole pack, as in the portable graph.

``rows``: images are laid into rows of L tokens, attention looks along a row and compares segments inside it, and
tokens go back to their places: R·L² scores instead of T². With one row it is the segment form.
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
    """Appends nodes whose outputs have a known type, as the conversion of precision needs it."""

    def __init__(self, model: Model, scope: str) -> None:
        self.model = model
        self.scope = scope
        self.count = 0

    def __call__(
        self, op: str, *inputs: gs.Tensor, dtype: npt.DTypeLike = FLOAT, domain: str | None = None, **attributes: object
    ) -> gs.Variable:
        """One node of one output."""
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
"""A fused attention → the tensor that takes the place of its output."""


def rewrite_attention(model: Model, form: Callable[[Model], Rewrite]) -> int:
    """Rewrite every attention of tokens to tokens, in place; returns how many.

    Attention of a learned probe to an image's tokens takes the segment form: it has M queries, not T.

    Args:
        form: Adds to the graph what all layers share, and rewrites one.

    Raises:
        PassError: An attention was not recognised.
    """
    run(model, ("fuse_attention",), complete=("fuse_attention",))
    for tensor in model.graph.tensors().values():
        if tensor.dtype is None:  # the matrices that fusing reshaped queries, keys and values to
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
    """The whole pack against the whole pack."""
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
    """Where tokens lie in rows, computed once for all layers.

    Attributes:
        index: [R, L] int32 token at each place, any where there is none.
        unpad: [T] int32 place of each token in the flattened rows.
        same: [R, 1, L, L] bool, whether two places of a row hold tokens of one image.
    """

    index: gs.Tensor
    unpad: gs.Tensor
    same: gs.Tensor


def lay_out(model: Model) -> Rows:
    """Add the inputs that lay images into rows."""
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
    """Add the input of cumulative lengths; [M + 2] of them with the tail, so that every token belongs to a sequence."""
    lengths = gs.Variable(Role.CU_SEQLENS.value, INT, ["images+1"])
    model.graph.inputs.append(lengths)
    b = Builder(model, "packed")
    tokens = b("Cast", b("Shape", model.input(Role.SEGMENT_IDS), dtype=np.int64), to=onnx.TensorProto.INT32, dtype=INT)
    return b("Concat", lengths, tokens, axis=0, dtype=INT)


def attend(
    b: Builder, query: gs.Tensor, key: gs.Tensor, value: gs.Tensor, same: gs.Tensor, scale: float
) -> gs.Variable:
    """``softmax(where(same, scale·q·k, -3e4))·v`` with the key transposed already."""
    scores = b("MatMul", b("Mul", query, b.constant(scale, FLOAT)), key)
    own = b("Where", same, scores, b.constant(MASKED, FLOAT))
    return b("MatMul", b("Softmax", own, axis=-1), value)


def replace(node: gs.Node, result: gs.Variable) -> None:
    """Let what read the node's output read ``result``."""
    (old,) = node.outputs
    (producer,) = result.inputs
    old.dtype = result.dtype
    node.outputs.clear()
    producer.outputs[producer.outputs.index(result)] = old
