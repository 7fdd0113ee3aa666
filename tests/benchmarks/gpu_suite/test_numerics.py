"""GPU graphs in 16 bits, rounded operator by operator on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.gpu_suite.numerics import GRAPHS, TORCH, measure
from benchmarks.gpu_suite.rounded import LOW, rounded
from benchmarks.gpu_suite.run import Run

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("precision", list(LOW))
def test_every_result_is_rounded_as_torch_rounds_it(precision: str, tmp_path: Path) -> None:
    kind, rng = LOW[precision], np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=7).astype(np.float32)
    low = torch.from_numpy(weight).to(DTYPES[precision])
    stored = numpy_helper.from_array(low.float().numpy().astype(helper.tensor_dtype_to_np_dtype(kind)), "weight")
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("Mul", ["a", "weight"], ["b"]),
        helper.make_node("Add", ["b", "weight"], ["c"]),
        helper.make_node("Shape", ["c"], ["shape"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [stored])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = rounded(tmp_path / "g.onnx", precision)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found, shape = session.run(None, {"x": x})
    assert torch.equal(torch.from_numpy(found), (torch.from_numpy(x).to(low.dtype) * low + low).float())
    assert shape.tolist() == [5, 7]


def test_graphs_for_gpus_keep_the_accuracy_of_torch() -> None:
    rows = {row["name"]: row for row in measure(Run("cpu", 1, 1e9), "small")}
    assert rows.keys() == {TORCH, *(f"{name} {precision}" for name in GRAPHS for precision in LOW)}
    assert all(row["passed"] for row in rows.values())
    for name in GRAPHS:
        assert 0.5 < rows[f"{name} bf16"]["times_torch"] <= 1.2
        assert rows[f"{name} fp16"]["rms_error"] < rows[f"{name} bf16"]["rms_error"] / 4
