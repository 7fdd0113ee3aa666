"""Writing a graph for OpenVINO: small files of operators, weights where they already lie.

OpenVINO takes external data from the graph's own folder alone, which would need a second copy of the weights in every
variant. So weights are inputs of the graph, a table says where each lies, and the runtime puts them in as constants.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.openvino.places import cut_places
from naflex_deploy.compiler.export import input_specs, output_specs
from naflex_deploy.compiler.passes.functions import DOMAIN, FUNCTIONS
from naflex_deploy.compiler.passes.graphs import Model, producer, scalar
from naflex_deploy.core.manifest import InputSpec, OutputSpec
from naflex_deploy.core.pack import Role
from naflex_deploy.runtime.backends.openvino.executed import MARK
from naflex_deploy.runtime.backends.openvino.model import PLACES, TABLE

GRAPH, WEIGHTS = "model.onnx", "weights.bin"

PRODUCTS = ("Gemm", "MatMul")

OUTSIDE_BYTES = 2**14
"""Smaller constants stay inside the graph, where OpenVINO needs some to be constant when it reads it."""


def write(model: Model, folder: Path, root: Path) -> tuple[list[InputSpec], list[OutputSpec]]:
    """Write a graph, the one of its places, and the table of its weights.

    Args:
        model: It loses its weights.
        folder: Of the variant.
        root: Of the bundle; files are named relative to it.

    Returns:
        What the two graphs take of a pack, and what they return.
    """
    factors = _fold_factors(model)
    constants = [tensor for tensor in model.graph.tensors().values() if isinstance(tensor, gs.Constant)]
    weights = [tensor for tensor in constants if tensor.values.nbytes >= OUTSIDE_BYTES]
    table = _store(model, weights, folder / WEIGHTS, root)
    for name, factor in factors.items():
        table[name]["factor"] = factor
    (folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for weight in weights:
        entry = gs.Variable(weight.name, weight.values.dtype, list(weight.values.shape))
        for node in list(weight.outputs):
            node.inputs = [entry if source is weight else source for source in node.inputs]
        model.graph.inputs.append(entry)
    main, places = cut_places(_stock(model))
    for number, node in enumerate(node for node in main.graph.node if node.op_type in PRODUCTS):
        node.name = f"{node.name or node.output[0]}{MARK}{number}"
    onnx.save(main, str(folder / GRAPH))
    read = list(main.graph.input)
    if places is not None:
        onnx.save(places, str(folder / PLACES))
        read += places.graph.input
    roles = {value.name: value for value in read if value.name in set(Role)}
    del main.graph.input[:]
    main.graph.input.extend(roles.values())
    return input_specs(main), output_specs(main)


def shared(folder: Path, root: Path) -> list[str]:
    """The files outside a variant's folder that hold its weights, relative to the bundle."""
    table = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    own = (folder / WEIGHTS).relative_to(root).as_posix()
    return sorted({entry["file"] for entry in table.values()} - {own})


def products(folder: Path) -> int:
    """How many products a written graph has."""
    nodes = onnx.load(str(folder / GRAPH), load_external_data=False).graph.node
    return sum(node.op_type in PRODUCTS for node in nodes)


def _fold_factors(model: Model) -> dict[str, float]:
    """Take multiplications right behind a product out of the graph, in place; returns the factor of each weight.

    OpenVINO would multiply such weights itself: once where they are float32, and with every pack where they are bf16.
    """
    found: dict[str, float] = {}
    for node in [node for node in model.graph.nodes if node.op == "Mul"]:
        product, factor = producer(node.inputs[0]), scalar(node.inputs[1])
        alone = len(node.inputs[0].outputs) == 1 and node.inputs[0] not in model.graph.outputs
        if product is None or product.op != "Gemm" or factor is None or not alone:
            continue
        weight, *biases = product.inputs[1:]
        if not isinstance(weight, gs.Constant) or weight.values.nbytes < OUTSIDE_BYTES or len(weight.outputs) > 1:
            continue
        found[weight.name] = factor
        scaled = [model.constant(f"{bias.name}.scaled", bias.values * np.float32(factor)) for bias in biases]
        product.inputs = [product.inputs[0], weight, *scaled]
        (y,) = node.outputs
        node.outputs.clear()
        product.outputs = [y]
    model.tidy()
    return found


def _store(model: Model, weights: list[gs.Constant], path: Path, root: Path) -> dict[str, dict[str, object]]:
    """Where each weight lies, and of what type and shape it is; those that a pass made get a file of their own."""
    table: dict[str, dict[str, object]] = {}
    with path.open("wb") as stream:
        for weight in weights:
            values = weight.values
            if weight.name in model.stored:
                data = {entry.key: entry.value for entry in model.stored[weight.name].external_data}
                file, offset = data["location"], int(data.get("offset", 0))
            else:
                stream.write(b"\0" * (-stream.tell() % 64))
                file, offset = path.relative_to(root).as_posix(), stream.tell()
                stream.write(np.ascontiguousarray(values).tobytes())
            shape = [int(size) for size in values.shape]
            table[weight.name] = {"file": file, "offset": offset, "dtype": str(values.dtype), "shape": shape}
    return table


def _stock(model: Model) -> onnx.ModelProto:
    """The graph in stock operators alone, with the type of every tensor."""
    used = {node.op for node in model.graph.nodes if node.domain == DOMAIN}
    proto = gs.export_onnx(model.graph, do_type_check=False)
    bodies = FUNCTIONS | model.functions
    proto.functions.extend(bodies[name] for name in sorted(used))
    return onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(proto))
