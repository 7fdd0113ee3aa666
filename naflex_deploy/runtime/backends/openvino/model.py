"""A bundle's graphs in OpenVINO's memory."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naflex_deploy.core.errors import needs_extra
from naflex_deploy.runtime.backends.openvino.weights import weight

if TYPE_CHECKING:
    import openvino

PLACES, TABLE = "places.onnx", "weights.json"

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}
"""Precision hint of each precision. What is not in eight bits of int8 is bf16, or f32 where the CPU has no bf16."""


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


def read(path: Path, root: Path, hint: str) -> openvino.Model:
    """A graph with its weights.

    Args:
        path: Of the graph.
        root: Of the bundle, which the table of weights names files relative to.
        hint: Precision hint that it will be compiled with.

    Raises:
        BundleError: The table names what is not there.
    """
    model = core().read_model(path.read_bytes())
    table: dict[str, dict[str, Any]] = json.loads((path.parent / TABLE).read_text(encoding="utf-8"))
    for parameter in model.get_parameters():
        name = parameter.output(0).get_any_name()
        if name not in table:
            continue
        readers = parameter.output(0).get_target_inputs()
        low = hint == "bf16" and all(reader.get_node().get_type_name() == "MatMul" for reader in readers)
        found = weight(root, table[name], path.parent / TABLE, low=low)
        for reader in readers:
            reader.replace_source_output(found)
        model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()
    return model
