"""What ONNX Runtime's CUDA kernels take, as far as graphs for GPUs hold such operators.

From docs/OperatorKernels.md of microsoft/onnxruntime, commit 001d12d, for the newest version of each operator. What a
GPU has no kernel for goes to the CPU, and in bfloat16 nowhere: then the graph does not load.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto as T
from onnx import helper

FLOATS = {T.FLOAT, T.FLOAT16}
LOW = FLOATS | {T.BFLOAT16}
WHOLE = {T.INT32, T.INT64}
MOVED = LOW | WHOLE | {T.BOOL, T.UINT8}

KERNELS: dict[str, set[int]] = {
    **dict.fromkeys(["Cast", "Concat", "Expand", "Gather", "Reshape", "ScatterElements", "Shape", "Slice"], MOVED),
    **dict.fromkeys(["Split", "Squeeze", "Transpose", "Unsqueeze"], MOVED),
    **dict.fromkeys(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sign", "ReduceSum"], LOW | WHOLE),
    **dict.fromkeys(["MatMul", "Gemm", "LayerNormalization", "Relu", "Sigmoid", "Softmax", "Gelu"], LOW),
    **dict.fromkeys(["BiasGelu", "FastGelu", "MultiHeadAttention", "SkipLayerNormalization"], LOW),
    **dict.fromkeys(["Cos", "Floor", "PackedMultiHeadAttention", "Reciprocal", "Sin"], FLOATS),
    **dict.fromkeys(["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "ReduceMax"], FLOATS | WHOLE),
    "Abs": FLOATS | WHOLE,
    "Clip": FLOATS | {T.INT64},
    "Equal": FLOATS | WHOLE | {T.BOOL},
    "GatherND": LOW | {T.BOOL, T.INT64},
    "Range": {T.FLOAT, *WHOLE},
    "Where": LOW | WHOLE | {T.UINT8},
}
ANSWERS = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


def without_kernel(graph: onnx.GraphProto) -> Iterator[str]:
    """Nodes without a CUDA kernel, each with its type."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        kind = kinds[node.input[1 if node.op_type == "Where" else 0]]
        if kind not in KERNELS.get(node.op_type, set()):
            yield f"{node.op_type} of {helper.tensor_dtype_to_string(kind)}: {node.name}"
        if node.op_type == "Cast":
            kind = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        elif node.op_type in ANSWERS:
            kind = T.BOOL
        elif node.op_type == "Shape":
            kind = T.INT64
        kinds.update(dict.fromkeys(node.output, kind))
