"""Splits Gemm(a, b, computed tensor) into Add(tensor, MatMul(a, b)), which undoes an optimiser's merge."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model, label


def match(model: Model) -> Iterator[gs.Node]:
    """Gemms that add a computed tensor."""
    for node in model.graph.nodes:
        if node.op == "Gemm" and len(node.inputs) > 2 and not isinstance(node.inputs[2], gs.Constant):
            yield node


def check(model: Model, node: gs.Node) -> gs.Node | str:
    """Check that the Gemm neither scales nor transposes its inputs."""
    changed = {key: node.attrs[key] for key in ("alpha", "beta") if node.attrs.get(key, 1) != 1}
    changed |= {"transA": 1} if node.attrs.get("transA", 0) else {}
    if node.attrs.get("transB", 0) and not isinstance(node.inputs[1], gs.Constant):
        changed["transB"] = 1
    return f"it has {changed}" if changed else node


def rewrite(model: Model, node: gs.Node) -> str:
    """Replace the Gemm by a MatMul and an Add."""
    a, b, added = node.inputs
    (total,) = node.outputs
    node.outputs.clear()
    if node.attrs.get("transB", 0):
        b = model.constant(b.name, b.values.T)
    product = model.variable(f"{total.name}_product")
    product.dtype, product.shape = total.dtype, total.shape
    name = label(node, "Add")
    model.graph.nodes.append(gs.Node("MatMul", label(node, "MatMul"), {}, [a, b], [product]))
    model.graph.nodes.append(gs.Node("Add", name, {}, [added, product], [total]))
    return name
