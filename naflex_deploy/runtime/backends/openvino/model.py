"""A bundle's graphs in OpenVINO's memory."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from naflex_deploy.core.errors import BundleError, needs_extra
from naflex_deploy.runtime.backends.openvino.store import Store
from naflex_deploy.runtime.backends.openvino.weights import Weight

if TYPE_CHECKING:
    import openvino

PLACES, TABLE = "places.onnx", "weights.json"

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}
"""Precision hint of each precision. What is not in eight bits of int8 is bf16, or f32 where the CPU has no bf16."""


ALIGNMENT = 64
"""Bytes at whose multiples weights begin."""

KEYS_AS_COLUMNS, KEYS_AS_ROWS = [0, 2, 3, 1], [0, 2, 1, 3]
"""Axes of keys in front of a product, from [rows, tokens, heads, d]."""


@cache
def core() -> openvino.Core:
    """OpenVINO itself.

    Raises:
        MissingExtraError: It is not installed.
    """
    with needs_extra("openvino"):
        import openvino
    return openvino.Core()


def library() -> str:
    """Name and version of the library."""
    return f"openvino {version_of_library()}"


def version_of_library() -> str:
    """Such as ``2026.4.1``."""
    return version("openvino")


def capabilities() -> frozenset[str]:
    """What OpenVINO says its CPU plugin computes fast here: ``FP32``, ``BF16``, ``FP16``, ``INT8``."""
    return frozenset(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def hint(precision: str) -> str:
    """The precision hint for a variant. It is always set, as OpenVINO runs float32 graphs in bf16 where it can."""
    if precision == "int8" and "BF16" not in capabilities():
        return "f32"
    return HINTS[precision]


def compiled(path: Path, root: Path, hint: str, **settings: int) -> tuple[openvino.CompiledModel, Store]:
    """A graph, compiled, and the memory of its weights, which has to last as long as the graph is used.

    Args:
        path: Of the graph.
        root: Of the bundle, which the table of weights names files relative to.
        hint: Precision hint.
        settings: Others of OpenVINO.

    Raises:
        BundleError: The table names what is not there.
    """
    model, store = read(path, root, hint)
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint, **settings}), store


def read(path: Path, root: Path, hint: str) -> tuple[openvino.Model, Store]:
    """A graph with its weights, and their memory: see `compiled`."""
    model = core().read_model(path.read_bytes())
    table = path.parent / TABLE
    try:
        store = _put_weights(model, json.loads(table.read_text(encoding="utf-8")), root, hint)
    except (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{table}: cannot read weights: {error}", hint="build the bundle again") from None
    _transpose_in_products(model)
    model.validate_nodes_and_infer_types()
    return model, store


def _put_weights(model: openvino.Model, table: dict[str, dict[str, Any]], root: Path, hint: str) -> Store:
    """Put constants in the place of a graph's inputs that the table names."""
    found: list[tuple[openvino.Node, Weight]] = []
    for parameter in model.get_parameters():
        if (name := parameter.output(0).get_any_name()) in table:
            readers = parameter.output(0).get_target_inputs()
            low = hint == "bf16" and all(reader.get_node().get_type_name() == "MatMul" for reader in readers)
            found.append((parameter, Weight.of(table[name], low=low)))
    ends = list(accumulate(-(-weight.size // ALIGNMENT) * ALIGNMENT for _, weight in found))
    store = Store(ends[-1] if ends else 0)
    for (parameter, weight), start in zip(found, [0, *ends], strict=False):
        constant = weight.read(root, store.part(start, weight.size))
        store.release()
        for reader in parameter.output(0).get_target_inputs():
            reader.replace_source_output(constant)
        model.remove_parameter(parameter)
    return store


def _transpose_in_products(model: openvino.Model) -> None:
    """Let products of queries and keys transpose the keys, in place, which ONNX has no way to say.

    OpenVINO moves keys to their heads before such a product. Moving whole rows takes less time than writing columns.
    """
    from openvino import opset13 as ops

    for product in model.get_ops():
        keys = product.input_value(1).get_node() if product.get_type_name() == "MatMul" else None
        if keys is None or keys.get_type_name() != "Transpose":
            continue
        order = keys.input_value(1).get_node()
        if order.get_type_name() == "Constant" and order.data.tolist() == KEYS_AS_COLUMNS:
            rows = ops.transpose(keys.input_value(0), ops.constant(np.array(KEYS_AS_ROWS)))
            found = ops.matmul(product.input_value(0), rows, False, True, name=product.get_friendly_name())
            product.output(0).replace(found.output(0))
