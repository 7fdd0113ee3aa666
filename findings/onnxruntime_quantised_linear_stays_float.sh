#!/usr/bin/env bash
# onnxruntime 1.31.1, CPU: a quantised linear layer with a bias runs in float32 where its input has two dimensions.
#
# QuantizeLinear, DequantizeLinear, MatMul, Add is the usual form of a linear layer in eight bits. With an input of
# [batch, tokens, width] it becomes MatMulIntegerToFloat. With an input of [tokens, width], as packed sequences have,
# an optimiser first merges MatMul and Add into Gemm, which the later one for integers does not know: the product stays
# in float32, behind a dequantisation of the weights, and nothing is reported. Without that optimiser both are integers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def linear(shape):
    rng = np.random.default_rng(0)
    constants = {
        "x_scale": np.float32(0.02), "x_zero": np.uint8(128), "w_scale": np.float32(0.01), "w_zero": np.int8(0),
        "weights": rng.integers(-127, 128, (64, 96)).astype(np.int8), "bias": rng.standard_normal(96).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_eight"]),
        helper.make_node("DequantizeLinear", ["x_eight", "x_scale", "x_zero"], ["x_real"]),
        helper.make_node("DequantizeLinear", ["weights", "w_scale", "w_zero"], ["w_real"]),
        helper.make_node("MatMul", ["x_real", "w_real"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def operators(shape, without=""):
    options = ort.SessionOptions()
    options.optimized_model_filepath = "optimised.onnx"
    options.log_severity_level = 3
    if without:
        options.add_session_config_entry("optimization.disable_specified_optimizers", without)
    ort.InferenceSession(linear(shape).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load("optimised.onnx").graph.node]


found = {
    "[1, tokens, 64]": operators([1, "tokens", 64]),
    "[tokens, 64]": operators(["tokens", 64]),
    "[tokens, 64] without MatMulAddFusion": operators(["tokens", 64], "MatMulAddFusion"),
}
print("onnxruntime", ort.__version__)
for form, names in found.items():
    print(f"{form}: {', '.join(names)}")
integer = ["MatMulIntegerToFloat" in names for names in found.values()]
assert integer == [True, False, True]
assert "Gemm" in found["[tokens, 64]"]
PYTHON
