"""Passes on graphs of a few nodes: linear layers of q, k, v, the probe, Gemms, pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from naflex_deploy.compiler.passes.graphs import Model, producer, read, write
from naflex_deploy.compiler.passes.manager import PASSES, apply, run
from tests.support import graphs
from tests.support.graphs import assert_equal, pack, portable

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: list[str], folder: Path, opset: int = 20
) -> Path:
    inputs = [helper.make_tensor_value_info("patches", TensorProto.UINT8, ["tokens", 12])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", inputs, values, tensors)
    path = folder / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path))
    return path


def check_same(path: Path, model: Model, folder: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 12), dtype=np.uint8)
    write(model, folder / "after.onnx", folder)
    before, after = (
        onnxruntime.InferenceSession(str(file)).run(None, {"patches": pixels}) for file in (path, folder / "after.onnx")
    )
    for wanted, found in zip(before, after, strict=True):
        assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


NORMALISATIONS = {
    "divide and subtract": [("Div", "white"), ("Sub", "mean"), ("Div", "std")],
    "multiply and add": [("Mul", "std"), ("Add", "mean")],
    "raw": [],
}
CONSTANTS = {
    "white": np.float32([255]),
    "mean": np.float32([0.4, 0.5, 0.6] * 4),
    "std": np.float32([0.2, 0.3, 0.1] * 4),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("layer", ["Gemm", "MatMul"])
def test_any_normalisation_is_centred_and_folded(name: str, layer: str, tmp_path: Path) -> None:
    steps = NORMALISATIONS[name]
    nodes = [helper.make_node("Cast", ["patches"], ["x0"], name="Cast", to=TensorProto.FLOAT)]
    for number, (op, constant) in enumerate(steps):
        nodes.append(helper.make_node(op, [f"x{number}", constant], [f"x{number + 1}"], name=f"step{number}"))
    last = f"x{len(steps)}"
    if layer == "Gemm":
        nodes.append(helper.make_node("Gemm", [last, "w", "b"], ["y"], name="embed/Gemm", transB=1))
    else:
        nodes += [helper.make_node("MatMul", [last, "wt"], ["p"], name="embed/MatMul")]
        nodes += [helper.make_node("Add", ["p", "b"], ["y"], name="embed/Add")]
    weight = normal(8, 12)
    path = model_of(nodes, CONSTANTS | {"w": weight, "wt": weight.T.copy(), "b": normal(8)}, ["y"], tmp_path)
    model = read(path)
    applied = apply(model, PASSES["centre_pixels"])
    assert len(applied.changed) == 1
    assert ops(model) == ["Cast", "Sub", "Gemm"]
    assert float(model.graph.nodes[1].inputs[1].values) == 127.5
    check_same(path, model, tmp_path)


def test_pixels_are_followed_through_operators_of_the_graphs_own_opset(tmp_path: Path) -> None:
    """The attribute round_mode of Cast came with opset 24."""
    nodes = [
        helper.make_node("Cast", ["patches"], ["x0"], name="Cast", to=TensorProto.FLOAT, round_mode="up"),
        helper.make_node("Div", ["x0", "white"], ["x1"], name="Div"),
        helper.make_node("Gemm", ["x1", "w", "b"], ["y"], name="embed/Gemm"),
    ]
    path = model_of(nodes, CONSTANTS | {"w": normal(12, 8), "b": normal(8)}, ["y"], tmp_path, opset=24)
    model = read(path)
    applied = apply(model, PASSES["centre_pixels"])
    assert applied.refused == {}
    assert ops(model) == ["Cast", "Sub", "Gemm"]
    check_same(path, model, tmp_path)


def test_centred_pixels_and_a_nonlinear_step_are_left_alone(tmp_path: Path) -> None:
    assert apply(read(portable("siglip2")), PASSES["centre_pixels"]).refused == {
        "embed/Gemm": "its pixels are already centred"
    }
    nodes = [
        helper.make_node("Cast", ["patches"], ["x0"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x0", "x0"], ["x1"]),
        helper.make_node("MatMul", ["x1", "w"], ["y"], name="embed"),
    ]
    applied = apply(read(model_of(nodes, {"w": normal(12, 8)}, ["y"], tmp_path)), PASSES["centre_pixels"])
    assert applied.refused == {"embed": "its input is not computed from pixels only"}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_that_adds_something_computed_is_split(transposed: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["patches"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "w", "b"], ["first"]),
        helper.make_node("Gemm", ["x", "v", "first"], ["y"], name="second", transB=transposed),
    ]
    weights = {"w": normal(12, 8), "b": normal(8), "v": normal(8, 12) if transposed else normal(12, 8)}
    path = model_of(nodes, weights, ["y"], tmp_path)
    model = read(path)
    assert len(apply(model, PASSES["split_gemm"]).changed) == 1
    assert sorted(ops(model)) == ["Add", "Cast", "Gemm", "MatMul"]
    check_same(path, model, tmp_path)
    nodes[2].attribute.append(helper.make_attribute("alpha", 0.5))
    applied = apply(read(model_of(nodes, weights, ["y"], tmp_path)), PASSES["split_gemm"])
    assert applied.refused == {"second": "it has {'alpha': 0.5}"}


@pytest.mark.parametrize("sizes", [None, [4, 8, 12]])
def test_a_stacked_projection_is_split(sizes: list[int] | None, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["patches"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "w", "b"], ["qkv"], name="qkv/Gemm"),
        helper.make_node("Split", ["qkv", *(["sizes"] if sizes else [])], ["q", "k", "v"], name="qkv/Split", axis=-1),
    ]
    if sizes is None:
        nodes[2].attribute.append(helper.make_attribute("num_outputs", 3))
    constants = {"w": normal(12, 24), "b": normal(24)} | ({"sizes": np.int64(sizes)} if sizes else {})
    path = model_of(nodes, constants, ["q", "k", "v"], tmp_path)
    model = read(path)
    assert len(apply(model, PASSES["split_qkv"]).changed) == 1
    assert ops(model) == ["Cast", "Gemm", "Gemm", "Gemm"]
    check_same(path, model, tmp_path)


def test_a_stacked_projection_is_split_at_sizes_that_are_an_attribute(tmp_path: Path) -> None:
    """As they are below opset 13."""
    nodes = [
        helper.make_node("Cast", ["patches"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "w", "b"], ["qkv"], name="qkv/Gemm"),
        helper.make_node("Split", ["qkv"], ["q", "k", "v"], name="qkv/Split", axis=-1, split=[4, 8, 12]),
    ]
    path = model_of(nodes, {"w": normal(12, 24), "b": normal(24)}, ["q", "k", "v"], tmp_path, opset=11)
    model = read(path)
    assert len(apply(model, PASSES["split_qkv"]).changed) == 1
    assert ops(model) == ["Cast", "Gemm", "Gemm", "Gemm"]
    check_same(path, model, tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("used", "the layer's whole output is also used"),
        ("rows", "it splits rows"),
        ("uneven", "its 23 columns do not divide into three equal parts"),
    ],
)
def test_another_split_is_left_alone(change: str, reason: str, tmp_path: Path) -> None:
    axis = 0 if change == "rows" else 1
    nodes = [
        helper.make_node("Cast", ["patches"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["qkv"]),
        helper.make_node("Split", ["qkv"], ["q", "k", "v"], name="Split", axis=axis, num_outputs=3),
    ]
    outputs = ["q", "k", "v", *(["qkv"] if change == "used" else [])]
    model = read(model_of(nodes, {"w": normal(12, 23 if change == "uneven" else 24)}, outputs, tmp_path))
    assert apply(model, PASSES["split_qkv"]).refused == {"Split": reason}


def test_merging_q_k_v_and_splitting_them_again_change_nothing(tmp_path: Path) -> None:
    model = read(portable("siglip2"))
    _, merged = run(model, ["fuse_attention", "merge_qkv"])
    assert len(merged.changed) == 2
    assert ops(model).count("Split") == 2
    write(model, tmp_path / "merged.onnx", tmp_path)
    wanted = graphs.run(portable("siglip2"), pack("siglip2"))
    root = portable("siglip2").parent
    assert_equal(run_mixed(tmp_path / "merged.onnx", root), wanted)
    (split,) = run(model, ["split_qkv"])
    assert len(split.changed) == 2
    assert "Split" not in ops(model)


def run_mixed(path: Path, root: Path) -> dict[str, np.ndarray]:
    """Run a graph whose weights lie partly beside it, partly in another directory."""
    proto = onnx.load(str(path), load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            here = tensor.external_data[0].value == f"{path.name}.data"
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent if here else root))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    whole = path.with_name("whole.onnx")
    onnx.save(proto, str(whole))
    return graphs.run(whole, pack("siglip2"))


def test_layers_that_are_not_of_the_same_tokens_are_not_merged() -> None:
    model = read(portable("rope, normed keys"))
    _, merged = run(model, ["fuse_attention", "merge_qkv"])
    reasons = list(merged.refused.values())
    assert "its query is not the output of a linear layer" in reasons


def test_a_probe_is_folded_and_the_result_is_the_same(tmp_path: Path) -> None:
    model = read(portable("siglip2"))
    before = ops(model).count("Gemm")
    _, folded = run(model, ["fuse_attention", "fold_probe"], complete=["fold_probe"])
    assert folded.changed == ["pool/ProbePool"]
    assert ops(model).count("Gemm") == before - 2  # Keys and values of tokens are gone.
    write(model, tmp_path / "folded.onnx", tmp_path)
    wanted = graphs.run(portable("siglip2"), pack("siglip2"))
    assert_equal(run_mixed(tmp_path / "folded.onnx", portable("siglip2").parent), wanted)


def test_a_probe_whose_keys_are_normed_or_whose_query_is_computed_is_not_folded() -> None:
    model = read(portable("siglip2"))
    run(model, ["fuse_attention"])
    (pool,) = [node for node in model.graph.nodes if node.name == "pool/PackedAttention"]
    key, normed = pool.inputs[1], gs.Variable("normed", np.float32, ["tokens", 32])
    ones = model.constant("ones", np.ones(32, np.float32))
    model.graph.nodes.append(gs.Node("LayerNormalization", "key_norm", {}, [key, ones], [normed]))
    pool.inputs[1] = normed
    refused = apply(model, PASSES["fold_probe"]).refused
    assert refused == {"pool/PackedAttention": "its keys come from LayerNormalization, not from a linear layer"}
    pool.inputs[1] = key
    pool.inputs[0] = producer(key).inputs[0]  # type: ignore[union-attr]
    (reason,) = apply(model, PASSES["fold_probe"]).refused.values()
    assert "its query is computed from" in reason
    assert "patches" in reason


def test_a_new_weight_never_takes_the_place_of_a_stored_one(tmp_path: Path) -> None:
    """Its file is known by its name, even after the old one has left the graph."""
    nodes = [
        helper.make_node("Cast", ["patches"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    path = model_of(nodes, {"w": normal(12, 512)}, ["y"], tmp_path)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, size_threshold=0, location="weights")
    model = read(path)
    (product,) = [node for node in model.graph.nodes if node.op == "MatMul"]
    product.inputs.pop()
    product.inputs.append(model.constant("w", np.ones((12, 512), np.float32)))
    write(model, tmp_path / "after.onnx", tmp_path)
    pixels = RNG.integers(0, 256, (5, 12), dtype=np.uint8)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "after.onnx")).run(None, {"patches": pixels})
    assert found[:, 0].tolist() == pixels.sum(1).tolist()


def test_parts_that_are_picked_out_of_a_weight_are_weights(tmp_path: Path) -> None:
    """As torch exports learned rotary frequencies of a block, once they are too large to be folded there."""
    nodes = [
        helper.make_node("Slice", ["w", "start", "end", "axes"], ["blocks"]),
        helper.make_node("Squeeze", ["blocks", "axes"], ["block"]),
        helper.make_node("Gather", ["block", "index"], ["row"], axis=0),
        helper.make_node("Cast", ["patches"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "row"], ["y"]),
    ]
    places = {name: np.int64(value) for name, value in {"start": [1], "end": [2], "axes": [0], "index": 1}.items()}
    path = model_of(nodes, {"w": normal(3, 2, 12), **places}, ["y"], tmp_path)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, size_threshold=100, location="weights")
    model = read(path)
    assert ops(model) == ["Cast", "Mul"]
    check_same(path, model, tmp_path)
