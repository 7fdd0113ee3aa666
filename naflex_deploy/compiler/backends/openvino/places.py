"""What follows from the places of tokens alone, cut off into a graph of its own that runs in float32.

With a hint of half precision OpenVINO computes everything in it, coordinates, filter weights and rotary angles too, and
takes no exception for single operators. Eight bits of mantissa would put tokens of a large grid on wrong places.
Numbers of table entries and of rows that are rounded from such values would be wrong, too.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import ancestors, producer
from naflex_deploy.core.pack import Role

PLACES = frozenset({Role.COORDS, Role.GRID_HW, Role.SEGMENT_IDS, Role.TOKEN_KIND})
SIZES = frozenset({"Shape", "Size"})
"""Operators whose results do not depend on the values that they read."""
OPSET = 20


def cut_places(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto | None]:
    """Cut a graph in two.

    Args:
        graph: Of stock operators, the type of every tensor known. Its weights are inputs, so that what reads one stays.

    Returns:
        The graph with the tensors at the cut as further inputs, and the graph whose outputs these are: those in float,
        and those that were computed from such; ``None`` where nothing in float follows from places.
    """
    model = gs.import_onnx(graph)
    model.toposort()
    placed = {id(tensor) for tensor in model.inputs if tensor.name in PLACES}
    computed: set[int] = set()
    for node in model.nodes:
        sources = [tensor for tensor in node.inputs if not _is_constant(tensor)]
        if sources and all(id(tensor) in placed for tensor in sources):
            placed.update(id(tensor) for tensor in node.outputs)
            if any(id(tensor) in computed or tensor.dtype == np.float32 for tensor in sources) and node.op not in SIZES:
                computed.update(id(tensor) for tensor in node.outputs)
    cut = [
        tensor
        for node in model.nodes
        for tensor in node.outputs
        if id(tensor) in placed
        and (tensor.dtype == np.float32 or id(tensor) in computed)
        and _is_read_outside(tensor, placed, model.outputs)
    ]
    if not cut:
        return graph, None
    nodes = ancestors(cut)
    read = {tensor.name for node in nodes for tensor in node.inputs}
    inputs = [tensor for tensor in model.inputs if tensor.name in read]
    places = gs.export_onnx(gs.Graph(nodes, inputs=inputs, outputs=cut, opset=OPSET), do_type_check=False)
    for tensor in cut:
        tensor.inputs.clear()
    model.inputs += cut
    return gs.export_onnx(model.cleanup(remove_unused_graph_inputs=True), do_type_check=False), places


def _is_constant(tensor: gs.Tensor) -> bool:
    made_by = producer(tensor)
    return isinstance(tensor, gs.Constant) or not tensor.name or (made_by is not None and made_by.op == "Constant")


def _is_read_outside(tensor: gs.Tensor, placed: set[int], outputs: list[gs.Tensor]) -> bool:
    return tensor in outputs or any(id(result) not in placed for node in tensor.outputs for result in node.outputs)
