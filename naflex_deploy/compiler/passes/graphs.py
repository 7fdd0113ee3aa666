"""Graphs as passes see them: onnx-graphsurgeon graphs with memory-mapped weights, whose subgraphs can be evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from naflex_deploy.compiler.passes.functions import DOMAIN, FUNCTIONS

G_LOGGER.severity = G_LOGGER.ERROR  # It warns about duplicate tensor names, which evaluated subgraphs have.

Array = npt.NDArray[Any]

LAYOUT = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity"})
"""Operators that move values without changing any."""

PICKING = LAYOUT | {"Gather", "Slice"}
"""Operators whose results hold values of their first input alone."""

INLINE_BYTES = 1024
"""Size in bytes below which constants stay inside the graph."""


@dataclass
class Model:
    """A graph under rewriting.

    Attributes:
        graph: Nodes and tensors. Weights are memory maps of the file that holds them.
        functions: Bodies of operators that are specific to this graph, by name, in addition to `FUNCTIONS`.
        stored: Weights that are already in a file, by name.
    """

    graph: gs.Graph
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    stored: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def input(self, name: str) -> gs.Tensor | None:
        """The graph input of that name."""
        return next((tensor for tensor in self.graph.inputs if tensor.name == name), None)

    def constant(self, name: str, values: Array) -> gs.Constant:
        """A new constant, whose name is neither that of another tensor nor that of a stored weight."""
        taken = {**self.graph.tensors(), **self.stored}
        return gs.Constant(unique(name, taken), np.asarray(values, order="C"))

    def variable(self, name: str) -> gs.Variable:
        """A new tensor with a unique name."""
        return gs.Variable(unique(name, self.graph.tensors()))

    def tidy(self) -> None:
        """Drop nodes that no output needs, sort the rest, and give every node a unique name."""
        self.graph.cleanup(remove_unused_graph_inputs=False).toposort()
        names: dict[str, gs.Node] = {}
        for node in self.graph.nodes:
            node.name = unique(node.name or node.op, names)
            names[node.name] = node


def read(path: Path) -> Model:
    """Read a graph. Its weights are memory-mapped, not loaded; parts that nodes pick out of a weight become weights.

    Raises:
        onnx.checker.ValidationError, OSError: The file is not an ONNX graph, or its weights are missing.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    stored = {t.name: t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    functions = {f.name: f for f in proto.functions if f.domain == DOMAIN}
    del proto.functions[:]
    model = Model(gs.import_onnx(proto), functions, stored)
    for name, tensor in model.graph.tensors().items():
        if name in stored:
            tensor.values = _map(stored[name], path.parent)
            tensor.data_location = None
    for node in [node for node in model.graph.nodes if node.op == "Constant"]:
        (value,) = node.attrs.values()
        node.outputs[0].to_constant(np.asarray(value.values if isinstance(value, gs.Constant) else value))
        node.outputs.clear()
    model.tidy()
    for node in model.graph.nodes:
        if node.op in PICKING and all(isinstance(source, gs.Constant) for source in node.inputs):
            values = evaluate(node.outputs[0], [], model.graph.opset)
            if not isinstance(values, str):
                node.outputs[0].to_constant(values)
                node.outputs.clear()
    model.tidy()
    return model


def write(model: Model, path: Path, root: Path) -> None:
    """Write a graph. Weights that no pass changed stay in the file from which they were read.

    External data is named relative to ``root``, so that a graph in a subdirectory can share weights with another;
    whoever opens the graph has to pass that directory to ONNX Runtime.

    Args:
        model: The graph to write.
        path: Path of the graph; new weights go to ``<path>.data``.
        root: Directory of the graph from which the model was read.
    """
    model.tidy()
    fresh = path.with_name(f"{path.name}.data")
    with _weights_outside(model, fresh, str(fresh.relative_to(root))):
        used = {node.op for node in model.graph.nodes if node.domain == DOMAIN}
        proto = gs.export_onnx(model.graph)
    proto.opset_import.sort(key=lambda opset: opset.domain)  # They come from a set, whose order varies.
    bodies = FUNCTIONS | model.functions
    proto.functions.extend(bodies[name] for name in sorted(used))
    onnx.save(proto, str(path))


def locations(model: Model) -> set[str]:
    """The files that hold the weights which no pass changed."""
    constants = {t.name for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
    kept = [proto for name, proto in model.stored.items() if name in constants]
    return {entry.value for proto in kept for entry in proto.external_data if entry.key == "location"}


def counts(model: Model) -> dict[str, int]:
    """Number of nodes by operator, the most frequent first."""
    return dict(Counter(node.op for node in model.graph.nodes).most_common())


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, including those in the bodies of control flow."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from every_node(attribute.g)


def unique(name: str, taken: Mapping[str, object]) -> str:
    """Return ``name``, or the first of name_2, name_3, … that is not taken."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; ``None`` for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def label(node: gs.Node, op: str) -> str:
    """A name for a node of type ``op`` that replaces ``node``."""
    scope, separator, _ = node.name.rpartition("/")
    return f"{scope}{separator}{op}"


def scalar(tensor: gs.Tensor) -> float | None:
    """The value of a constant with one element; ``None`` for any other tensor."""
    if isinstance(tensor, gs.Constant) and tensor.values.size == 1:
        return float(tensor.values.reshape(()))
    return None


def through_layout(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor of which another one is only a rearrangement or a multiple."""
    while (node := producer(tensor)) is not None:
        if node.op in LAYOUT or (node.op in ("Mul", "Div") and scalar(node.inputs[1]) is not None):
            tensor = node.inputs[0]
        elif node.op == "Mul" and scalar(node.inputs[0]) is not None:
            tensor = node.inputs[1]
        else:
            break
    return tensor


def ancestors(targets: Iterable[gs.Tensor], stop: Iterable[gs.Tensor] = ()) -> list[gs.Node]:
    """Every node from which the targets are computed, in topological order, without looking past ``stop``."""
    ends = {id(tensor) for tensor in stop}
    found: dict[int, gs.Node] = {}
    done: list[gs.Node] = []
    stack = [(tensor, False) for tensor in targets]
    while stack:
        tensor, finished = stack.pop()
        node = producer(tensor)
        if node is None or id(tensor) in ends:
            continue
        if finished:
            done.append(node)
        elif id(node) not in found:
            found[id(node)] = node
            stack.append((tensor, True))
            stack += [(source, False) for source in node.inputs]
    return done


def sources_of(model: Model, tensor: gs.Tensor) -> set[str]:
    """Names of the graph inputs that a tensor depends on."""
    reached = {tensor.name, *(source.name for node in ancestors([tensor]) for source in node.inputs)}
    return reached & {source.name for source in model.graph.inputs}


def evaluate(target: gs.Tensor, feeds: list[tuple[gs.Tensor, Array]], opset: int) -> Array | str:
    """Run the subgraph between some tensors and one that depends on them.

    Args:
        target: The tensor to compute.
        feeds: Tensors with the values to give them.
        opset: Opset of the graph.

    Returns:
        The value of the target, or the reason why it cannot be computed.
    """
    inputs = [tensor for tensor, _ in feeds]
    nodes = ancestors([target], stop=inputs)
    if not nodes:
        return next((value for tensor, value in feeds if tensor is target), f"'{target.name}' is not computed")
    variables = [gs.Variable(tensor.name, value.dtype, value.shape) for tensor, value in feeds]
    graph = gs.Graph(nodes, inputs=variables, outputs=[gs.Variable(target.name)], opset=opset)
    proto = gs.export_onnx(graph, do_type_check=False, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (value,) = session.run(None, {tensor.name: value for tensor, value in feeds})
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own.
        return f"'{target.name}' cannot be evaluated: {str(error).splitlines()[0]}"
    return np.asarray(value)


def _map(proto: onnx.TensorProto, folder: Path) -> Array:
    place = {entry.key: entry.value for entry in proto.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    count = int(np.prod(proto.dims))
    if not count:
        return np.zeros(proto.dims, dtype)
    flat = np.memmap(folder / place["location"], dtype, "r", int(place.get("offset", 0)), (count,))
    return flat.reshape(tuple(proto.dims))


@contextmanager
def _weights_outside(model: Model, path: Path, location: str) -> Any:
    """Make weights external for the duration of an export: in the file that holds them, or in a new one."""
    constants = [tensor for tensor in model.graph.tensors().values() if isinstance(tensor, gs.Constant)]
    kept = [(tensor, tensor.values) for tensor in constants]
    fresh = [(t, v) for t, v in kept if t.name not in model.stored and v.nbytes >= INLINE_BYTES]
    if fresh:
        with path.open("wb") as stream:
            for tensor, values in fresh:
                stream.write(b"\0" * (-stream.tell() % 4096))
                tensor.values = LazyValues(_external(tensor.name, values, location, stream.tell()))
                stream.write(np.ascontiguousarray(values).view(np.uint8).data)  # A bfloat16 array has no buffer.
    for tensor, _ in kept:
        if tensor.name in model.stored:
            tensor.values = LazyValues(model.stored[tensor.name])
    try:
        yield
    finally:
        for tensor, values in kept:
            tensor.values = values


def _external(name: str, values: Array, location: str, offset: int) -> onnx.TensorProto:
    proto = onnx.TensorProto(
        name=name,
        dims=values.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(values.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in {"location": location, "offset": offset, "length": values.nbytes}.items():
        proto.external_data.add(key=key, value=str(value))
    return proto
