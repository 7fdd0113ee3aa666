from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from naflex_deploy.compiler.passes.graphs import Model, read, write
from naflex_deploy.compiler.passes.manager import PASSES, PassError, apply, run
from tests.support import graphs
from tests.support.graphs import assert_equal, optimised, pack, portable, renamed

FUSE = PASSES["fuse_attention"]


def attentions(model: Model) -> list[gs.Node]:
    return [node for node in model.graph.nodes if node.op == "PackedAttention"]


@pytest.mark.parametrize("name", graphs.CASES)
def test_the_fused_graph_computes_the_same_in_stock_onnxruntime(name: str, tmp_path: Path) -> None:
    model = read(portable(name))
    applied = apply(model, FUSE)
    a = graphs.FAMILIES[name]
    assert len(applied.changed) == a.depth + (a.pooling == "map")
    assert {node.attrs["heads"] for node in attentions(model)} == {a.heads}
    of_tokens = [node for node in attentions(model) if node.inputs[3] is node.inputs[4]]
    assert [node.attrs["scale"] for node in of_tokens] == [pytest.approx(a.head_width**-0.5)] * a.depth
    write(model, tmp_path / "fused.onnx", tmp_path)
    found = graphs.run(tmp_path / "fused.onnx", pack(name), root=portable(name).parent)
    assert_equal(found, graphs.run(portable(name), pack(name)))


@pytest.mark.parametrize("name", ["siglip2", "rope, normed keys"])
@pytest.mark.parametrize("change", ["renamed", "BASIC", "EXTENDED"])
def test_it_recognises_what_other_tools_leave(name: str, change: str, tmp_path: Path) -> None:
    source = renamed(portable(name), tmp_path) if change == "renamed" else optimised(portable(name), change)
    model = read(source)
    applied = apply(model, FUSE)
    assert (len(applied.changed), applied.refused) == (3, {})
    write(model, tmp_path / "fused.onnx", tmp_path)
    found = graphs.run(tmp_path / "fused.onnx", pack(name), root=source.parent)
    assert_equal(found, graphs.run(portable(name), pack(name)))


def softmax(model: Model) -> gs.Node:
    return next(node for node in model.graph.nodes if node.op == "Softmax")


def where(model: Model) -> gs.Node:
    return softmax(model).i()


def high_fill(model: Model) -> None:
    where(model).inputs[2] = model.constant("fill", np.float32(-5.0))


def no_mask(model: Model) -> None:
    softmax(model).inputs[0] = where(model).inputs[1]


def other_mask(model: Model) -> None:
    mask = where(model).inputs[0]
    flipped = model.variable("flipped")
    model.graph.nodes.append(gs.Node("Not", "Not", {}, [mask], [flipped]))
    where(model).inputs[0] = flipped


def later_segment(model: Model) -> None:
    equal = where(model).inputs[0].inputs[0].i()
    equal.op = "GreaterOrEqual"


def swapped_heads(model: Model) -> None:
    transpose = where(model).inputs[1].inputs[0].i(0)
    reshape = transpose.i().i()
    reshape.inputs[1] = model.constant("shape", np.array([-1, 16, 2], np.int64))
    for node in (transpose, transpose.i()):
        if node.op == "Transpose":
            node.attrs["perm"] = [2, 0, 1]


def weights_used_twice(model: Model) -> None:
    weights = softmax(model).outputs[0]
    extra = gs.Variable("weights_out", np.float32, None)
    model.graph.nodes.append(gs.Node("Identity", "Identity", {}, [weights], [extra]))
    model.graph.outputs.append(extra)


def other_axis(model: Model) -> None:
    softmax(model).attrs["axis"] = 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (high_fill, "masked scores become -5.0, expected a constant of at most -10000"),
        (no_mask, r"its scores come from MatMul, not from Where"),
        (other_mask, r"its mask comes from Not, not from Equal"),
        (later_segment, r"its mask comes from GreaterOrEqual"),
        (swapped_heads, r"its scores are not scale·q·kᵀ"),
        (weights_used_twice, "its weights are used for something other than mixing values"),
        (other_axis, "its axis is 1"),
    ],
)
def test_it_leaves_alone_what_is_something_else_and_says_why(spoil, reason: str) -> None:
    model = read(portable("siglip2"))
    name = softmax(model).name
    spoil(model)
    model.tidy()
    applied = apply(model, FUSE)
    assert "pool/PackedAttention" in applied.changed
    assert re.search(reason, applied.refused[name])


def test_a_required_attention_that_is_not_found_is_an_error_that_names_node_and_check() -> None:
    model = read(portable("siglip2"))
    high_fill(model)
    with pytest.raises(PassError, match=r"fuse_attention: .*blocks\.0/Softmax, because masked scores become -5"):
        run(model, ["fuse_attention"], complete=["fuse_attention"])
    empty = read(portable("siglip2"))
    run(empty, ["fuse_attention"])
    with pytest.raises(PassError, match="found none"):
        run(empty, ["fuse_attention"], complete=["fuse_attention"])
