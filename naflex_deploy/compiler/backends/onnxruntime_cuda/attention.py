"""Writes attention over a pack with ONNX Runtime's own GPU operators.

``packed``: ``PackedMultiHeadAttention`` by cumulative lengths, with neither padding nor mask. It has kernels for fp16
and fp32.

``rows``: ``MultiHeadAttention``, which has bf16 kernels too, along rows of images. A bias [R, 1, L, L] that all layers
share keeps the images of a row apart.
"""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.attention_forms import FLOAT, INT, Builder, Rewrite, lay_out, sequence_ends
from naflex_deploy.compiler.passes.functions import MASKED
from naflex_deploy.compiler.passes.graphs import Model
from naflex_deploy.core.pack import Role

CONTRIB = "com.microsoft"


def packed(model: Model) -> Rewrite:
    """The packed form: each image is one sequence, and the tail is one more."""
    ends = sequence_ends(model)
    offsets = gs.Variable(Role.TOKEN_OFFSET.value, INT, ["rows", "row_tokens"])
    model.graph.inputs.append(offsets)

    def rewrite(b: Builder, node: gs.Node) -> gs.Variable:
        inputs = (*node.inputs[:3], gs.Variable.empty(), offsets, ends)
        return b("PackedMultiHeadAttention", *inputs, domain=CONTRIB, **_attributes(node))

    return rewrite


def rows(model: Model) -> Rewrite:
    """The rows form: images are laid out in rows, several to a row if they fit."""
    laid = lay_out(model)
    b = Builder(model, "rows/bias")
    bias = b("Where", laid.same, b.constant(0, FLOAT), b.constant(MASKED, FLOAT))

    def rewrite(b: Builder, node: gs.Node) -> gs.Variable:
        q, k, v = (b("Gather", tensor, laid.index, axis=0) for tensor in node.inputs[:3])
        inputs = (q, k, v, gs.Variable.empty(), gs.Variable.empty(), bias)
        context = b("MultiHeadAttention", *inputs, domain=CONTRIB, **_attributes(node))
        width = node.outputs[0].shape[-1]
        return b("Gather", b("Reshape", context, b.integers(-1, width)), laid.unpad, axis=0)

    return rewrite


def _attributes(node: gs.Node) -> dict[str, Any]:
    return {"num_heads": node.attrs["heads"], "scale": node.attrs["scale"]}


FORMS = {"packed": packed, "rows": rows}
