"""Emulates fp16 and bf16 graphs on a CPU, which has no kernels for them, by float32 kernels with rounded results.

Like a GPU, this multiplies 16-bit values, adds in float32, and rounds what is stored. Values that a GPU keeps in
float32 inside a fused kernel are rounded here between operators, so that errors are slightly overestimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
OTHER_RESULT = {"Shape", "Size", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
"""Operators whose result has its own type, whatever the types of the inputs."""


def rounded(path: Path, precision: str) -> onnx.ModelProto:
    """A graph with float32 instead of ``precision``, rounded wherever the graph stores a result; weights are inside.

    ONNX Runtime's optimiser has to be off, because it removes casts that cancel each other.
    """
    kind = LOW[precision]
    model = onnx.load(str(path))
    graph = model.graph
    low = {tensor.name for tensor in graph.initializer if tensor.data_type == kind}
    for tensor in graph.initializer:
        if tensor.name in low:
            tensor.CopyFrom(_widened(tensor))
    nodes = [own for node in graph.node for own in _with_rounding(node, low, kind)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


def _with_rounding(node: NodeProto, low: set[str], kind: int) -> Iterator[NodeProto]:
    """Yield a node and the rounding of its results, whose names are added to ``low``."""
    is_low = node.op_type not in OTHER_RESULT and any(name in low for name in node.input)
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            is_low = attribute.i == kind
            attribute.i = TensorProto.FLOAT if is_low else attribute.i
        elif node.op_type == "Constant" and attribute.t.data_type == kind:
            is_low = True
            attribute.t.CopyFrom(_widened(attribute.t))
    names = [name for name in node.output if name] if is_low else []
    node.output[:] = [f"{name}/exact" if name in names else name for name in node.output]
    yield node
    for name in names:
        low.add(name)
        yield helper.make_node("Cast", [f"{name}/exact"], [f"{name}/rounded"], to=kind)
        yield helper.make_node("Cast", [f"{name}/rounded"], [name], to=TensorProto.FLOAT)


def _widened(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
