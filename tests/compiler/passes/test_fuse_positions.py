from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from naflex_deploy.compiler.passes.graphs import Model, read, write
from naflex_deploy.compiler.passes.manager import PASSES, apply, run
from tests.support import graphs
from tests.support.graphs import CASES, FAMILIES, assert_equal, optimised, pack, portable, renamed

RESIZED = [
    case
    for case, a in zip(CASES, FAMILIES.values(), strict=True)
    if a.positions is not None and a.positions.interpolation != "learned_softmax"
]


def node_of(model: Model) -> gs.Node:
    (node,) = [node for node in model.graph.nodes if node.op == "PositionInterpolation"]
    return node


def assert_recognised(name: str, source: Path, folder: Path) -> None:
    model = read(source)
    run(model, ["split_gemm", "fuse_positions"], complete=["fuse_positions"])
    p = FAMILIES[name].positions
    assert p is not None
    attributes = dict(node_of(model).attrs)
    assert (attributes.pop("rows"), attributes.pop("columns")) == p.grid
    kept = {"interpolation": p.interpolation, "antialias": int(p.antialias), "factorized": int(p.factorized)}
    assert attributes == kept | {"align_corners": int(p.align_corners), "square": int(p.square)}
    assert [tensor.name for tensor in node_of(model).inputs[:3]] == ["coords", "grid_hw", "segment_ids"]
    write(model, folder / "fused.onnx", folder)
    found = graphs.run(folder / "fused.onnx", pack(name), root=source.parent)
    assert_equal(found, graphs.run(portable(name), pack(name)))


@pytest.mark.parametrize("name", RESIZED)
def test_a_resized_table_becomes_one_node_that_says_how(name: str, tmp_path: Path) -> None:
    assert_recognised(name, portable(name), tmp_path)


@pytest.mark.parametrize("name", ["siglip2", "large table by gather"])
def test_it_recognises_what_other_tools_leave(name: str, tmp_path: Path) -> None:
    assert_recognised(name, renamed(portable(name), tmp_path), tmp_path)
    for level in ("BASIC", "EXTENDED"):
        assert_recognised(name, optimised(portable(name), level), tmp_path)


def test_the_body_has_the_opset_of_the_graph_that_its_operators_come_from(tmp_path: Path) -> None:
    graph = onnx.load(str(portable("siglip2")))
    graph.opset_import[0].version = 21
    onnx.save(graph, str(tmp_path / "newer.onnx"))
    model = read(tmp_path / "newer.onnx")
    run(model, ["split_gemm", "fuse_positions"], complete=["fuse_positions"])
    (body,) = model.functions.values()
    assert [opset.version for opset in body.opset_import] == [21]


@pytest.mark.parametrize("name", ["learned softmax", "coordinate MLP"])
def test_a_learned_function_is_left_alone(name: str) -> None:
    applied = apply(read(portable(name)), PASSES["fuse_positions"])
    assert not applied.changed
    assert applied.refused
    assert all("a learned function" in reason for reason in applied.refused.values())


def weights_of(model: Model) -> gs.Node:
    """The product with the table."""
    (node,) = [
        node
        for node in model.graph.nodes
        if node.op == "MatMul" and isinstance(node.inputs[1], gs.Constant) and len(node.inputs[1].values) == 256
    ]
    return node


def scaled(model: Model) -> None:
    node = weights_of(model)
    more = model.variable("more")
    factor = model.constant("factor", np.array(1.01, np.float32))
    model.graph.nodes.append(gs.Node("Mul", "Mul_factor", {}, [node.inputs[0], factor], [more]))
    node.inputs[0] = more


def other_filter(model: Model) -> None:
    # 1.2 - |d| instead of 1 - |d|: rows still sum to one.
    for node in model.graph.nodes:
        if node.op == "Relu":
            node.i().inputs[0] = model.constant("width", np.array(1.2, np.float32))


def swapped_axes(model: Model) -> None:
    first, second = weights_of(model).i().i().inputs
    for tensor, axis in ((first, 1), (second, 2)):
        tensor.inputs[0].inputs[1] = model.constant("axis", np.array([axis], np.int64))


@pytest.mark.parametrize("spoil", [scaled, other_filter, swapped_axes])
def test_a_table_resized_in_another_way_is_left_alone_with_the_difference(spoil: Callable[[Model], None]) -> None:
    model = read(portable("siglip2"))
    spoil(model)
    applied = apply(model, PASSES["fuse_positions"])
    assert not applied.changed
    (reason,) = applied.refused.values()
    assert re.search(r"256 entries is not resized in a known way \(bilinear \(16, 16\) differs by 0\.\d+|1\.", reason)
