"""Puts our kernels into a graph for TensorRT, as the operators that ``plugins/register.py`` registers.

packed_attention        query, key, value [T, H·d], segments [T], starts [M+1] → [T, H·d]
position_interpolation  coords [T, 2], grids [M+1, 2], segments [T], table [n, D] → [T, D]
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.attention_forms import FLOAT, INT, Builder, Rewrite
from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.passes import fuse_positions
from naflex_deploy.compiler.passes.graphs import Model, label
from naflex_deploy.core.pack import Role

SINCE = (10, 16)
"""First version of TensorRT that can embed our kernels."""

PLUGIN: dict[str, Any] = {"plugin_namespace": "naflex", "plugin_version": "1", "aot": 1}
FILTERS = ("bilinear", "bicubic")


def registration() -> str:
    """Name of the module that registers the kernels, which a wheel has inside the package, and a clone beside it."""
    return "naflex_deploy.plugins.register" if find_spec("naflex_deploy.plugins") else "plugins.register"


def attention(model: Model) -> Rewrite:
    """Replace positions and every attention by plugins; see `attention_forms.rewrite_attention`."""
    positions(model)
    starts = gs.Variable(Role.CU_SEQLENS.value, INT, ["images+1"])
    model.graph.inputs.append(starts)

    def rewrite(b: Builder, node: gs.Node) -> gs.Variable:
        query, key, value, _, segments = node.inputs
        attributes: dict[str, Any] = {"heads": node.attrs["heads"], "scale": node.attrs["scale"]}
        return b("packed_attention", query, key, value, segments, starts, **attributes, **PLUGIN)

    return rewrite


def positions(model: Model) -> int:
    """Replace position tables by the plugin in place, if it has their filter; returns how many were replaced."""
    count = 0
    for node in list(fuse_positions.match(model)):
        found = fuse_positions.check(model, node)
        if isinstance(found, str) or not _same_filter(found.positions):
            continue
        rows, columns = found.positions.grid
        attributes = {"rows": rows, "columns": columns, "cubic": int(found.positions.interpolation == "bicubic")}
        places = [model.input(role) for role in (Role.COORDS, Role.GRID_HW, Role.SEGMENT_IDS)]
        found.embedding.inputs.clear()
        found.embedding.dtype = FLOAT
        name = label(node, "position_interpolation")
        inputs, outputs = [*places, found.table], [found.embedding]
        model.graph.nodes.append(gs.Node("position_interpolation", name, attributes | PLUGIN, inputs, outputs))
        count += 1
    return count


def _same_filter(p: Positions) -> bool:
    plain = p.antialias and not (p.align_corners or p.square or p.factorized)
    return plain and p.interpolation in FILTERS
