"""Converts a graph to fp16 or bf16 weights and activations, with islands of float32.

Two kinds of values stay float32: the operators that sum or exponentiate over many values (`ISLANDS`), and everything
computed from positions alone, such as filter weights and rotary angles, until it meets a learned weight; in half
precision these would point to the wrong place of a large grid. The graph's outputs stay float32 too. Every tensor has
its final type, so that the engine has no choice left; strongly typed TensorRT networks require this.
"""

from __future__ import annotations

from collections.abc import Set

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.core.pack import Role

DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}

ISLANDS = frozenset(
    {"LayerNormalization", "Softmax", "Sin", "Cos", "Exp", "ReduceSum", "ReduceMean", "ReduceL2", "Reciprocal"}
)

PRODUCTS = frozenset({"MatMul", "Gemm", "Gather", "position_interpolation"})
"""Operators in which values computed from positions alone meet learned values."""

FLOAT32 = DTYPES["fp32"]


def convert(graph: gs.Graph, precision: str, islands: Set[str] = ISLANDS) -> None:
    """Convert a float32 graph in place.

    Args:
        graph: A topologically sorted graph in which every tensor has a type.
        precision: ``fp16``, ``bf16``, or ``fp32``, which changes nothing.
        islands: Operators that stay float32.
    """
    low = DTYPES[precision]
    if low == FLOAT32:
        return
    _Conversion(graph, low, islands).run()


class _Conversion:
    def __init__(self, graph: gs.Graph, low: np.dtype[np.generic], islands: Set[str]) -> None:
        self.graph = graph
        self.low = low
        self.islands = islands
        self.features = {id(tensor) for tensor in graph.inputs if tensor.name == Role.PATCHES}
        self.converted: dict[tuple[int, np.dtype[np.generic]], gs.Tensor] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            dtype = self._dtype_of(node)
            for index, tensor in enumerate(node.inputs):
                if _is_float(tensor) and tensor.dtype != dtype:
                    node.inputs[index] = self._as(tensor, dtype)
            if not any(_is_float(tensor) for tensor in node.outputs):
                continue
            if node.op == "Cast":
                node.attrs["to"] = _onnx_type(dtype)
            for tensor in node.outputs:
                if _is_float(tensor):
                    tensor.dtype = dtype
        for tensor in self.graph.outputs:
            if tensor.dtype == self.low:
                self._widen(tensor)
        self.graph.cleanup().toposort()

    def _dtype_of(self, node: gs.Node) -> np.dtype[np.generic]:
        """The type that a node computes in; records whether its outputs depend on more than positions."""
        learned = node.op in PRODUCTS and any(isinstance(t, gs.Constant) and _is_float(t) for t in node.inputs)
        feature = learned or any(id(tensor) in self.features for tensor in node.inputs)
        if feature:
            self.features.update(id(tensor) for tensor in node.outputs)
        return self.low if feature and node.op not in self.islands else FLOAT32

    def _as(self, tensor: gs.Tensor, dtype: np.dtype[np.generic]) -> gs.Tensor:
        key = (id(tensor), dtype)
        if key not in self.converted:
            name = f"{tensor.name}.{dtype.name}"
            if isinstance(tensor, gs.Constant):
                self.converted[key] = gs.Constant(name, np.asarray(tensor.values).astype(dtype))
            else:
                self.converted[key] = self._cast(tensor, gs.Variable(name, dtype, tensor.shape))
        return self.converted[key]

    def _cast(self, source: gs.Tensor, target: gs.Variable) -> gs.Variable:
        self.graph.nodes.append(
            gs.Node("Cast", f"{target.name}/Cast", {"to": _onnx_type(target.dtype)}, [source], [target])
        )
        return target

    def _widen(self, output: gs.Variable) -> None:
        """Cast a graph output back to float32 under its own name."""
        narrow = gs.Variable(f"{output.name}.{self.low.name}", self.low, output.shape)
        (producer,) = output.inputs
        producer.outputs[producer.outputs.index(output)] = narrow
        for consumer in list(output.outputs):
            consumer.inputs = [narrow if tensor is output else tensor for tensor in consumer.inputs]
        output.dtype = FLOAT32
        self._cast(narrow, output)


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and np.dtype(tensor.dtype) in DTYPES.values()


def _onnx_type(dtype: npt.DTypeLike) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
