#!/usr/bin/env bash
# TensorRT-RTX 1.7.1: the ONNX parser takes Attention-24 with key lengths, builds, and leaves the lengths out.
#
# `nonpad_kv_seqlen`, the seventh input of Attention since opset 24, says how many keys of each row are real. The parser
# accepts a model that uses it and a plan is built, with a warning that an input is unused: in the parsed network no
# layer takes the lengths, so every row attends to its padding. One would expect an unsupported input to be refused.
# No GPU is needed to see it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet tensorrt-rtx-cu13==1.7.1.116 onnx==1.23.2
environment/bin/python - <<'PYTHON'
import onnx
import tensorrt_rtx as trt
from onnx import TensorProto, helper

shape = [2, 4, 16, 32]  # rows, heads, keys, width of a head
inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("q", "k", "v")]
inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, [2]))
output = helper.make_tensor_value_info("context", TensorProto.FLOAT16, shape)
node = helper.make_node("Attention", ["q", "k", "v", "", "", "", "lengths"], ["context"])
model = helper.make_model(
    helper.make_graph([node], "attention", inputs, [output]), opset_imports=[helper.make_opsetid("", 24)], ir_version=10
)
onnx.checker.check_model(model)

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
parsed = parser.parse(model.SerializeToString())
layers = [network.get_layer(index) for index in range(network.num_layers)]
taken = {layer.get_input(i).name for layer in layers for i in range(layer.num_inputs) if layer.get_input(i)}
plan = builder.build_serialized_network(network, builder.create_builder_config())
print(f"TensorRT-RTX {trt.__version__}: parsed {parsed}, built {plan is not None}")
print("graph inputs that a layer takes:", sorted(taken & {"q", "k", "v", "lengths"}))
assert parsed
assert plan is not None
assert taken & {"q", "k", "v", "lengths"} == {"q", "k", "v"}
PYTHON
