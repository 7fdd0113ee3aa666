"""Exports the packed model to ``portable.onnx``: stock operators, dynamic token and image axes, external weights."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.compiler.model.text_transformer import TextTransformer
from naflex_deploy.core.manifest import InputSpec, OutputSpec
from naflex_deploy.core.pack import Pack, Patches, Role, in_blocks

OPSET = 20
"""The first opset that has Gelu, which therefore stays one node."""

TOKENS, IMAGES, ROWS, TEXTS = "tokens", "images", "images+1", "texts"
_ROWS = "rows"  # torch wants an identifier; renamed after the export

# The exporter warns for each torchvision operator that torchvision is not installed; no model here uses any of them.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)

DYNAMIC_AXES = {role: ROWS if role in (Role.GRID_HW, Role.CU_SEQLENS) else TOKENS for role in Role}


def export(model: PackedNaFlexViT, path: Path) -> None:
    """Write a model as ONNX, with its weights in ``<name>.data`` beside it.

    Args:
        model: The model, with `masked_attention`, on the CPU.
        path: Path of the graph to write.

    Raises:
        onnx.checker.ValidationError: The exported graph is not valid ONNX.
    """
    pack = _example(model)
    axes = {TOKENS: torch.export.Dim(TOKENS), ROWS: torch.export.Dim(_ROWS)}
    inputs = {role.value: torch.from_numpy(pack.view(role)) for role in model.roles}
    block = model.architecture.merge**2
    rows = {name: f"{TOKENS}/{block}" for name in model.outputs if in_blocks(name)} if block > 1 else {}
    _export(model, inputs, model.outputs, [axes[DYNAMIC_AXES[role]] for role in model.roles], path, rows)


def export_text(tower: TextTransformer, path: Path, *, masked: bool = False) -> None:
    """Write a text tower as ONNX, with its weights in ``<name>.data`` beside it.

    The graph takes ``ids`` [texts, length] int64, and ``mask`` [texts, length] bool where ``masked``, and returns
    ``vectors`` [texts, D] float32.
    """
    inputs = {"ids": torch.zeros(2, tower.length, dtype=torch.int64)}
    if masked:
        inputs["mask"] = torch.ones(2, tower.length, dtype=torch.bool)
    _export(tower, inputs, ["vectors"], [torch.export.Dim(TEXTS)] * len(inputs), path)


def _export(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    first_axes: Sequence[Any],
    path: Path,
    rows: Mapping[str, str] = MappingProxyType({}),
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: axis} for axis in first_axes),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)
    graph = onnx.load(str(path), load_external_data=False)
    _tidy(graph, rows)
    onnx.save(graph, str(path))
    onnx.checker.check_model(str(path), full_check=True)


def input_specs(graph: onnx.ModelProto) -> list[InputSpec]:
    """The inputs of a graph, by role."""
    return [InputSpec(role=Role(value.name), dtype=_dtype(value), shape=_shape(value)) for value in graph.graph.input]


def output_specs(graph: onnx.ModelProto) -> list[OutputSpec]:
    """The outputs of a graph."""
    return [OutputSpec(name=value.name, dtype=_dtype(value), shape=_shape(value)) for value in graph.graph.output]


def _example(model: PackedNaFlexViT) -> Pack:
    """A pack whose sizes torch does not specialise on: several images, and no axis of length 0 or 1."""
    a = model.architecture
    images = [Patches(np.zeros((h * w, a.patch_values), np.uint8), (h, w)) for h, w in ((2, 4), (4, 6))]
    return Pack.of(images, prefix=a.prefix, tokens=32 + 2 * a.prefix + 3)


def _tidy(graph: onnx.ModelProto, rows: Mapping[str, str]) -> None:
    """Name nodes after the module they came from, and drop stack traces, which hold paths of the build machine.

    Args:
        graph: As torch wrote it.
        rows: Name of the first dimension of an output, where torch gives it an expression.
    """
    rename = {f"{_ROWS} - 1": IMAGES, _ROWS: ROWS}
    for value in graph.graph.output:
        if value.name in rows:
            rename[value.type.tensor_type.shape.dim[0].dim_param] = rows[value.name]
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = rename.get(dim.dim_param, dim.dim_param)
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    used: dict[str, int] = {}
    for node in graph.graph.node:
        scope = _scope(node)
        stem = f"{scope}/{node.op_type}" if scope else node.op_type
        used[stem] = used.get(stem, 0) + 1
        node.name = stem if used[stem] == 1 else f"{stem}_{used[stem]}"
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for owner in (graph, graph.graph):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    for tensor in graph.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")


def _scope(node: onnx.NodeProto) -> str:
    """The innermost of our modules that a node was traced from, such as ``blocks.3.mlp.fc1``."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes: list[str] = ast.literal_eval(entry.value)
            return scopes[-2] if len(scopes) > 1 else ""
    return ""


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
