"""Fuses the computation of position embeddings from coordinates into one `PositionInterpolation`.

The candidates are additions of a term that depends only on coordinates and grids to a term that depends on pixels. Such
an embedding is recognised if, on probe tokens of many grids, it equals the output of the reference module for the same
table. The node keeps the original operators as its body, so that a target which does not know the node computes
exactly what it did before.

    coords [T, 2], grid_hw [M+1, 2], segment_ids [T], table [n, D] → [T, D]
    attributes rows, columns, interpolation, antialias, align_corners, square, factorized: see `Positions`
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch

from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.packed_vit import position_table
from naflex_deploy.compiler.passes.functions import DOMAIN
from naflex_deploy.compiler.passes.graphs import Array, Model, ancestors, evaluate, label, sources_of
from naflex_deploy.core.pack import Role

OP = "PositionInterpolation"
PLACES = (Role.COORDS, Role.GRID_HW, Role.SEGMENT_IDS)
PROBES = ((1, 1), (1, 9), (7, 1), (3, 5), (16, 16), (23, 4), (5, 31), (40, 40))
"""Grids that tell filters apart, smaller and larger than usual tables."""
TOLERANCE = 1e-4
SPLITS = 128
"""Number of splits of a table into rows and columns that are tried, starting with equal parts."""


@dataclass(frozen=True)
class Found:
    """A position embedding that was recognised."""

    node: gs.Node
    embedding: gs.Tensor
    table: gs.Constant
    positions: Positions


def match(model: Model) -> Iterator[gs.Node]:
    """Additions of a term that depends only on positions to a term that depends on pixels."""
    for node in model.graph.nodes:
        if node.op == "Add":
            sources = [sources_of(model, tensor) for tensor in node.inputs]
            if any(map(_placed, sources)) and any(Role.PATCHES in one for one in sources):
                yield node


def check(model: Model, node: gs.Node) -> Found | str:
    """Check that the term added is a table resized in a known way."""
    if OP in model.functions:
        return "the graph already has a fused position table"
    (embedding,) = [tensor for tensor in node.inputs if _placed(sources_of(model, tensor))]
    nodes = ancestors([embedding])
    tables = _tables(nodes)
    if not tables:
        return "the term added to the patches does not come from a table"
    if len(tables) > 1:
        return f"it is a learned function of several tables and weights ({', '.join(t.name for t in tables)})"
    (table,) = tables
    pack = _probe()
    feeds = [(tensor, pack[tensor.name]) for tensor in model.graph.inputs if tensor.name in pack]
    found = evaluate(embedding, feeds, model.graph.opset)
    if isinstance(found, str):
        return found
    worst = ""
    for positions in _candidates(len(table.values)):
        error = _error(positions, np.asarray(table.values), pack, found)
        if error <= TOLERANCE:
            return Found(node, embedding, table, positions)
        worst = worst or f"{positions.interpolation} {positions.grid} differs by {error:.2g} of the largest value"
    return f"its table of {len(table.values)} entries is not resized in a known way ({worst})"


def rewrite(model: Model, found: Found) -> str:
    """Replace the embedding by one node, whose body is the original operators."""
    inputs = [tensor for tensor in model.graph.inputs if tensor.name in PLACES]
    name = label(found.node, OP)
    model.functions[OP] = _body(inputs, found, model.graph.opset)
    p = asdict(found.positions)
    rows, columns = p.pop("grid")
    attributes = {"rows": rows, "columns": columns} | {k: int(v) if isinstance(v, bool) else v for k, v in p.items()}
    found.embedding.inputs.clear()
    model.graph.nodes.append(gs.Node(OP, name, attributes, [*inputs, found.table], [found.embedding], domain=DOMAIN))
    return name


def _placed(sources: set[str]) -> bool:
    """Whether these are graph inputs that describe positions, and no others."""
    return Role.COORDS in sources and sources <= set(PLACES)


def _tables(nodes: list[gs.Node]) -> list[gs.Constant]:
    """Two-dimensional float constants with several rows and columns."""
    constants = [t for node in nodes for t in node.inputs if isinstance(t, gs.Constant)]
    tables = [t for t in constants if t.values.ndim == 2 and min(t.shape) > 1 and t.values.dtype.kind == "f"]
    return list({table.name: table for table in tables}.values())


def _probe() -> dict[str, Array]:
    """Every token of the probe grids, as graph inputs."""
    coords = [np.stack(np.divmod(np.arange(h * w), w), 1) for h, w in PROBES]
    segments = np.repeat(np.arange(len(PROBES)), [h * w for h, w in PROBES])
    views = {
        Role.COORDS: np.concatenate(coords),
        Role.GRID_HW: np.array([*PROBES, (1, 1)]),
        Role.SEGMENT_IDS: segments,
    }
    return {role.value: view.astype(np.int32) for role, view in views.items()}


def _candidates(entries: int) -> Iterator[Positions]:
    """Every known resize of a table with so many entries, likely ones first."""
    shapes = [(n, entries // n) for n in range(1, entries + 1) if entries % n == 0]
    shapes.sort(key=lambda shape: abs(shape[0] - shape[1]))
    flags = list(itertools.product((False, True), repeat=2))
    for grid in shapes:
        for square, corners in flags:
            for antialias in (True, False):
                for interpolation in ("bilinear", "bicubic"):
                    yield Positions(grid, interpolation, antialias, corners, square)
    for rows in sorted(range(1, entries), key=lambda rows: abs(2 * rows - entries))[:SPLITS]:
        for square, corners in flags:
            yield Positions((rows, entries - rows), "bilinear", False, corners, square, factorized=True)


def _error(positions: Positions, table: Array, pack: dict[str, Array], found: Array) -> float:
    """Largest difference relative to the largest value; a few channels are compared first."""
    coords = torch.from_numpy(pack[Role.COORDS])
    grid = torch.from_numpy(pack[Role.GRID_HW][pack[Role.SEGMENT_IDS]])
    for channels in (4, table.shape[1]):
        module = position_table(positions, channels)
        module.load_state_dict({"table": torch.from_numpy(np.array(table[:, :channels]))})
        with torch.inference_mode():
            wanted = module(coords, grid).numpy()
        if wanted.shape != found[:, :channels].shape:
            return float("inf")
        error = float(np.abs(wanted - found[:, :channels]).max() / np.abs(wanted).max())
        if error > TOLERANCE:
            break
    return error


def _body(inputs: list[gs.Tensor], found: Found, opset: int) -> onnx.FunctionProto:
    """The operators between positions and embedding, as a function of positions and table."""
    nodes = ancestors([found.embedding])
    graph = gs.Graph(nodes, inputs=[*inputs, gs.Variable(found.table.name)], outputs=[found.embedding], opset=opset)
    proto = gs.export_onnx(graph, do_type_check=False).graph
    constants = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in proto.initializer
        if tensor.name != found.table.name
    ]
    return onnx.helper.make_function(
        DOMAIN,
        OP,
        [*(tensor.name for tensor in inputs), found.table.name],
        [found.embedding.name],
        [*constants, *proto.node],
        [onnx.helper.make_opsetid("", opset)],
    )
