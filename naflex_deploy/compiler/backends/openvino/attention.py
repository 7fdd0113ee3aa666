"""Attention for OpenVINO: the longest images one by one in slots, all others together as rows.

OpenVINO has no loop over images that keeps results of differing lengths, so a graph has a fixed number of slots. A pack
comes with its longest images first, and with the number of tokens of each slot and of the rest:

    query, key, value [T, H·d] ─▶ Split(slot_lengths) ─▶ slot 1 … slot S: attention without a mask; any may be empty
                                                      └▶ the rest: rows [R, L] of one image each, shorter ones masked
                                                   ─▶ Concat [T, H·d]

Which images go where is decided for every pack when it runs, so that one compiled graph serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.attention_forms import BOOL, FLOAT, INT, Builder, replace, segment
from naflex_deploy.compiler.passes.functions import MASKED
from naflex_deploy.compiler.passes.graphs import Model, label
from naflex_deploy.core.pack import Role

SLOTS = 4
"""Twice as many gain 1 % on packs of many images and take half as long again to compile."""

TO_HEADS = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
"""Axes of queries, transposed keys and values, from [rows, tokens, heads, d]."""


def lower_attention(model: Model) -> int:
    """Rewrite every fused attention, in place; returns how many attend from tokens to tokens."""
    attentions = [node for node in model.graph.nodes if node.op == "PackedAttention"]
    own = [node for node in attentions if node.inputs[3] is node.inputs[4]]
    if own:
        lengths, index, unpad, mask = _layout(model)
    for node in attentions:
        b = Builder(model, label(node, "Attention"))
        replace(node, _slots_and_rows(b, node, lengths, index, unpad, mask) if node in own else segment(b, node))
    model.tidy()
    return len(own)


def _layout(model: Model) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor, gs.Tensor]:
    """Lengths of slots, the token at each place of the rows, the place of each token, and what scores of places get.

    Adding to scores takes less time than choosing between them and a constant.
    """
    roles = (Role.SLOT_LENGTHS, Role.PAD_INDEX, Role.UNPAD_INDEX)
    lengths, pad, unpad = (gs.Variable(role.value, INT) for role in roles)
    lengths.shape, pad.shape, unpad.shape = [SLOTS + 1], ["rows", "row_tokens"], ["rest"]
    model.graph.inputs += [lengths, pad, unpad]
    b = Builder(model, "layout")
    zero = b.constant(0, INT)
    held = b("Unsqueeze", b("GreaterOrEqual", pad, zero, dtype=BOOL), b.integers(1, 2), dtype=BOOL)
    mask = b("Where", held, b.constant(0, FLOAT), b.constant(MASKED, FLOAT))
    return b("Cast", lengths, to=onnx.TensorProto.INT64, dtype=np.int64), b("Max", pad, zero, dtype=INT), unpad, mask


def _slots_and_rows(
    b: Builder, node: gs.Node, lengths: gs.Tensor, index: gs.Tensor, unpad: gs.Tensor, mask: gs.Tensor
) -> gs.Variable:
    heads, width = int(node.attrs["heads"]), int(node.inputs[0].shape[-1])
    # Right behind the product of queries, whose weight then takes the factor.
    query = b("Mul", node.inputs[0], b.constant(float(node.attrs["scale"]), FLOAT))
    slots = [_split(b, tensor, lengths) for tensor in (query, *node.inputs[1:3])]
    levels = _levels(node)
    one_image, whole_rows = b.integers(1, -1, heads, width // heads), b.integers(0, 0, heads, width // heads)
    contexts = []
    for qkv in zip(*(parts[:SLOTS] for parts in slots), strict=True):
        q, k, v = (b("Transpose", b("Reshape", x, one_image), perm=p) for x, p in zip(qkv, TO_HEADS, strict=True))
        contexts.append(_mixed(b, b("MatMul", q, k), v, levels, width))
    rest = (b("Gather", parts[SLOTS], index, axis=0) for parts in slots)
    q, k, v = (b("Transpose", b("Reshape", x, whole_rows), perm=p) for x, p in zip(rest, TO_HEADS, strict=True))
    rows = _mixed(b, b("Add", b("MatMul", q, k), mask), v, levels, width)
    return b("Concat", *contexts, b("Gather", rows, unpad, axis=0), axis=0)


def _mixed(b: Builder, scores: gs.Tensor, value: gs.Tensor, levels: Sequence[gs.Tensor], width: int) -> gs.Variable:
    """[rows, heads, tokens, tokens] scores and [rows, heads, tokens, d] values → [rows·tokens, heads·d]."""
    mixed = b("MatMul", b("Softmax", scores, axis=-1), value)
    if levels:
        mixed = b("DequantizeLinear", b("QuantizeLinear", mixed, *levels, dtype=np.uint8), *levels)
    return b("Reshape", b("Transpose", mixed, perm=[0, 2, 1, 3]), b.integers(-1, width))


def _levels(node: gs.Node) -> Sequence[gs.Tensor]:
    """Scale and zero point of the eight bits that an attention's output is rounded to; none where it stays float.

    Both operators are taken out of the graph, so that attention can round before it stores: what follows moves a
    quarter of the bytes, and OpenVINO rounds in the kernel of attention instead of in passes of its own in float32.
    """
    (context,) = node.outputs
    if [reader.op for reader in context.outputs] != ["QuantizeLinear"]:
        return ()
    (rounding,) = context.outputs
    (back,) = rounding.outputs[0].outputs
    levels = list(rounding.inputs[1:])
    for reader in list(back.outputs[0].outputs):
        reader.inputs = [context if tensor is back.outputs[0] else tensor for tensor in reader.inputs]
    rounding.inputs.clear()
    back.outputs.clear()
    return levels


def _split(b: Builder, tensor: gs.Tensor, lengths: gs.Tensor) -> list[gs.Variable]:
    b.count += 1
    name = f"{b.scope}/Split_{b.count}"
    parts = [gs.Variable(f"{name}_{slot}", FLOAT) for slot in range(SLOTS + 1)]
    b.model.graph.nodes.append(gs.Node("Split", name, {"axis": 0}, [tensor, lengths], parts))
    return parts
