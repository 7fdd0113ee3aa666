"""The forms that attention over a pack takes for TensorRT.

``segment``: queries of the whole pack against keys of the whole pack, as in the portable graph. TensorRT fuses
``MatMul → Where(Equal(segments, segments)) → Softmax → MatMul`` and holds neither mask nor scores.

``rows``: images are laid into rows of L tokens, attention looks along a row and compares segments inside it, and
tokens go back to their places: R·L² scores instead of T². With one row it is the segment form.

``packed``: TensorRT's own packed attention, by cumulative lengths, where the library has kernels for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.build.passes.functions import MASKED
from naflex_deploy.build.passes.graphs import Model, label
from naflex_deploy.build.passes.manager import run
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.pack import Role
from naflex_deploy.core.rows import SEGMENT_TOKENS

FORMS = ("segment", "rows", "packed")

FLOAT, INT, BOOL = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.bool_)


def choose_form(backend: str, version: str, budgets: Sequence[int]) -> tuple[str, ...]:
    """Forms to try for an engine of these budgets, the best first.

    Only TensorRT from 11.1 on has packed attention, and whether it takes a model's heads only a build tells.
    """
    plain = "rows" if budgets[-1] > SEGMENT_TOKENS else "segment"
    major, minor = (int(number) for number in version.split(".")[:2])
    return ("packed", plain) if backend == "tensorrt" and (major, minor) >= (11, 1) else (plain,)


def apply_form(model: Model, form: str) -> int:
    """Rewrite every attention of tokens to tokens, in place; returns how many.

    Attention of a learned probe to an image's tokens keeps the segment form: it has M queries, not T.
    """
    if form == "segment":
        return 0
    run(model, ("fuse_attention",))
    for tensor in model.graph.tensors().values():
        if tensor.dtype is None:  # the matrices that fusing reshaped queries, keys and values to
            tensor.dtype = FLOAT
    attentions = [node for node in model.graph.nodes if node.op == "PackedAttention"]
    own = [node for node in attentions if node.inputs[3] is node.inputs[4]]
    rewrite = (_rows if form == "rows" else _packed)(model)
    for node in attentions:
        b = _Builder(model, label(node, "Attention"))
        found = rewrite(b, node) if node in own else _segment(b, node)
        _replace(node, found)
    model.graph.cleanup().toposort()
    return len(own)


def refuse_dropped_lengths(graph: onnx.ModelProto) -> None:
    """Refuse ``Attention`` with per-sequence key lengths, which TensorRT's parser reads and drops.

    Raises:
        IncompatibleError: Names the node.
    """
    for node in graph.graph.node:
        if node.op_type == "Attention" and len(node.input) > 6 and node.input[6]:
            raise IncompatibleError(
                f"{node.name or node.output[0]}: TensorRT ignores the key lengths (nonpad_kv_seqlen) of Attention",
                hint="mask keys by a comparison, as portable.onnx does",
            )


class _Builder:
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


Rewrite = Callable[[_Builder, gs.Node], gs.Variable]


def _segment(b: _Builder, node: gs.Node) -> gs.Variable:
    query, key, value, query_segments, segments = node.inputs
    heads = node.attrs["heads"]
    shape = b.integers(0, heads, -1)
    q, k, v = (
        b("Transpose", b("Reshape", tensor, shape), perm=perm)
        for tensor, perm in ((query, [1, 0, 2]), (key, [1, 2, 0]), (value, [1, 0, 2]))
    )
    rows = b("Unsqueeze", query_segments, b.integers(1), dtype=query_segments.dtype)
    columns = b("Unsqueeze", segments, b.integers(0), dtype=segments.dtype)
    context = _attend(b, q, k, v, b("Equal", rows, columns, dtype=BOOL), node.attrs["scale"])
    return b("Reshape", b("Transpose", context, perm=[1, 0, 2]), b.integers(0, -1))


def _rows(model: Model) -> Rewrite:
    pad, unpad = (gs.Variable(role.value, INT) for role in (Role.PAD_INDEX, Role.UNPAD_INDEX))
    pad.shape, unpad.shape = ["rows", "row_tokens"], ["tokens"]
    model.graph.inputs += [pad, unpad]
    b = _Builder(model, "rows")
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

    def rewrite(b: _Builder, node: gs.Node) -> gs.Variable:
        shape = b.integers(0, 0, node.attrs["heads"], -1)
        q, k, v = (
            b("Transpose", b("Reshape", b("Gather", tensor, index, axis=0), shape), perm=perm)
            for tensor, perm in zip(node.inputs[:3], ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        context = b("Transpose", _attend(b, q, k, v, same, node.attrs["scale"]), perm=[0, 2, 1, 3])
        width = node.outputs[0].shape[-1]
        return b("Gather", b("Reshape", context, b.integers(-1, width)), unpad, axis=0)

    return rewrite


def _attend(
    b: _Builder, query: gs.Tensor, key: gs.Tensor, value: gs.Tensor, same: gs.Tensor, scale: float
) -> gs.Variable:
    """``softmax(where(same, scale·q·k, -3e4))·v`` with the key transposed already."""
    scores = b("MatMul", b("Mul", query, b.constant(scale, FLOAT)), key)
    own = b("Where", same, scores, b.constant(MASKED, FLOAT))
    return b("MatMul", b("Softmax", own, axis=-1), value)


def _packed(model: Model) -> Rewrite:
    lengths = gs.Variable(Role.CU_SEQLENS.value, INT, ["images+1"])
    model.graph.inputs.append(lengths)
    b = _Builder(model, "packed")
    # The tail is one more sequence, so that every token belongs to one.
    tokens = b("Cast", b("Shape", model.input(Role.SEGMENT_IDS), dtype=np.int64), to=onnx.TensorProto.INT32, dtype=INT)
    ends = b("Concat", lengths, tokens, axis=0, dtype=INT)

    def rewrite(b: _Builder, node: gs.Node) -> gs.Variable:
        shape = b.integers(0, node.attrs["heads"], -1)
        q, k, v = (b("Reshape", tensor, shape) for tensor in node.inputs[:3])
        scaled = b("Mul", q, b.constant(node.attrs["scale"], FLOAT))  # the operator has no scale of its own
        inputs = (scaled, k, v, gs.Variable.empty(), ends, ends)
        context = b("TRT_Attention", *inputs, query_form="packed_nhd", kv_form="packed_nhd")
        return b("Reshape", context, b.integers(0, -1))

    return rewrite


def _replace(node: gs.Node, result: gs.Variable) -> None:
    """Let what read the node's output read ``result``."""
    (old,) = node.outputs
    (producer,) = result.inputs
    old.dtype = result.dtype
    node.outputs.clear()
    producer.outputs = [old]
