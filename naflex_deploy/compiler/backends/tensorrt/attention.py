"""Writes attention over a pack in the forms that suit TensorRT.

``segment``: TensorRT fuses ``MatMul → Where(Equal(segments, segments)) → Softmax → MatMul`` over the whole pack, and
stores neither mask nor scores.

``rows``: images are laid out in rows, for larger packs; see `attention_forms`.

``packed``: TensorRT's own packed attention, by cumulative lengths, if the library has kernels for it.

``plugin``: our kernel (``plugins/``), by the same lengths, which TensorRT embeds from version 10.16 on.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.attention_forms import (
    FLOAT,
    Builder,
    Rewrite,
    attend,
    lay_out,
    rewrite_attention,
    sequence_ends,
)
from naflex_deploy.compiler.backends.tensorrt import plugins as tensorrt_plugins
from naflex_deploy.compiler.passes.graphs import Model
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.rows import SEGMENT_TOKENS


def choose_form(backend: str, version: str, budgets: Sequence[int], wanted: str = "auto") -> tuple[str, ...]:
    """The forms to try for an engine of these budgets, best first.

    TensorRT has packed attention from version 11.1 on, and only a build shows whether it supports a model's heads.

    Args:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Version of the installed library.
        budgets: Token budgets of the engine, in ascending order.
        wanted: The one form to use, or ``auto``.

    Raises:
        IncompatibleError: The library does not support the wanted form.
    """
    newer = tuple(int(number) for number in version.split(".")[:2]) if backend == "tensorrt" else (0, 0)
    if wanted == "plugin" and newer < tensorrt_plugins.SINCE:
        raise IncompatibleError(
            f"plugins need TensorRT {'.'.join(map(str, tensorrt_plugins.SINCE))} or later, found {backend} {version}",
            hint="engine.tensorrt.attention = 'auto'",
        )
    if wanted != "auto":
        return (wanted,)
    plain = "rows" if budgets[-1] > SEGMENT_TOKENS else "segment"
    return ("packed", plain) if newer >= (11, 1) else (plain,)


def apply_form(model: Model, form: str) -> int:
    """Rewrite every self-attention of the tokens in place; returns how many were rewritten."""
    return rewrite_attention(model, FORMS[form]) if form != "segment" else 0


def refuse_dropped_lengths(graph: onnx.ModelProto) -> None:
    """Refuse ``Attention`` with per-sequence key lengths, which TensorRT's parser accepts and then ignores.

    Raises:
        IncompatibleError: Names the node.
    """
    for node in graph.graph.node:
        if node.op_type == "Attention" and len(node.input) > 6 and node.input[6]:
            raise IncompatibleError(
                f"{node.name or node.output[0]}: TensorRT ignores the key lengths (nonpad_kv_seqlen) of Attention",
                hint="mask keys by a comparison, as portable.onnx does",
            )


def _rows(model: Model) -> Rewrite:
    rows = lay_out(model)

    def rewrite(b: Builder, node: gs.Node) -> gs.Variable:
        shape = b.integers(0, 0, node.attrs["heads"], -1)
        q, k, v = (
            b("Transpose", b("Reshape", b("Gather", tensor, rows.index, axis=0), shape), perm=perm)
            for tensor, perm in zip(node.inputs[:3], ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        context = b("Transpose", attend(b, q, k, v, rows.same, node.attrs["scale"]), perm=[0, 2, 1, 3])
        width = node.outputs[0].shape[-1]
        return b("Gather", b("Reshape", context, b.integers(-1, width)), rows.unpad, axis=0)

    return rewrite


def _packed(model: Model) -> Rewrite:
    ends = sequence_ends(model)

    def rewrite(b: Builder, node: gs.Node) -> gs.Variable:
        shape = b.integers(0, node.attrs["heads"], -1)
        q, k, v = (b("Reshape", tensor, shape) for tensor in node.inputs[:3])
        scaled = b("Mul", q, b.constant(node.attrs["scale"], FLOAT))  # The operator has no scale attribute.
        inputs = (scaled, k, v, gs.Variable.empty(), ends, ends)
        context = b("TRT_Attention", *inputs, query_form="packed_nhd", kv_form="packed_nhd")
        return b("Reshape", context, b.integers(0, -1))

    return rewrite


FORMS = {"rows": _rows, "packed": _packed, "plugin": tensorrt_plugins.attention}
