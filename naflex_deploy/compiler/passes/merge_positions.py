"""Merges patch projection and positions into one product: [patches ‖ filter weights]·[projection ; table] + bias.

This suits small tables that are multiplied as a whole, such as 16x16, where the filter weights of a token cost no more
than a row of pixels. The product must stay float: pixels reach 255 and filter weights 1, so one quantisation scale for
both would lose the positions.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.functions import DOMAIN
from naflex_deploy.compiler.passes.graphs import Model, label
from naflex_deploy.compiler.passes.linear import Linear, add_linear, linear_of

OP = "PositionInterpolation"
LARGEST_TABLE = 1024
"""Largest table in entries; in larger ones, a token would have more filter weights than pixels."""


def merge_positions(model: Model) -> str:
    """Merge both products in place; returns the reason if they stay separate, else an empty string."""
    node = next((node for node in model.graph.nodes if node.op == OP), None)
    if node is None:
        return "there is no fused position table"
    (embedding,) = node.outputs
    table = node.inputs[-1]
    body = model.functions[OP]
    if len(table.values) > LARGEST_TABLE:
        return f"the table has {len(table.values)} entries, more than {LARGEST_TABLE}"
    weights_of = _without_product(body)
    if weights_of is None:
        return "the table is gathered from, not multiplied"
    (total,) = embedding.outputs
    (projected,) = [tensor for tensor in total.inputs if tensor is not embedding]
    layer = linear_of(projected)
    if layer is None or len(projected.outputs) > 1 or projected in model.graph.outputs:
        return "something stands between the projection of patches and the sum"
    model.functions[weights_of.name] = weights_of
    _merge(model, node, total, layer, weights_of.name)
    return ""


def _without_product(body: onnx.FunctionProto) -> onnx.FunctionProto | None:
    """The function of the filter weights, if the body ends in their product with the table."""
    (last,) = [node for node in body.node if body.output[0] in node.output]
    if last.op_type != "MatMul" or last.input[1] != body.input[-1]:
        return None
    nodes = [node for node in body.node if node is not last]
    return onnx.helper.make_function(
        DOMAIN, "PositionWeights", list(body.input[:-1]), [last.input[0]], nodes, body.opset_import
    )


def _merge(model: Model, node: gs.Node, total: gs.Node, layer: Linear, function: str) -> None:
    name = label(node, function)
    weights, both = model.variable(f"{name}/weights"), model.variable(f"{name}/patches")
    table = np.asarray(node.inputs[-1].values)
    (y,) = total.outputs
    total.outputs.clear()
    model.graph.nodes += [
        gs.Node(function, name, {}, list(node.inputs[:-1]), [weights], domain=DOMAIN),
        gs.Node("Concat", f"{name}/Concat", {"axis": 1}, [layer.x, weights], [both]),
    ]
    add_linear(model, both, np.concatenate([layer.weight, table]), layer.bias, y, layer.node)
    model.tidy()
