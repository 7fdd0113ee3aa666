"""The precision in which OpenVINO computes each product of a compiled graph, read back from what it made of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant

if TYPE_CHECKING:
    import openvino

MARK = "/product_"
"""Ends the names of a graph's products, before their numbers, so that they are found again in what was made of them."""

NUMBER = re.compile(rf"{MARK}(\d+)")

NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}

WIDEST = ("f32", "bf16", "f16")

PRODUCTS = ("FullyConnected", "MatMul")

RECORD = "products"
"""Key of the counts in the figures of a build."""


def executed(compiled: openvino.CompiledModel) -> dict[str, int]:
    """Number of products by the precision they are computed in."""
    found: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        kind, names = info["layerType"], info["originalLayersNames"]
        precision = _computed(node) if kind == "Subgraph" else info["runtimePrecision"]
        # A product that is an output of the graph goes by the name of the output.
        numbers = NUMBER.findall(names) or ([names] if kind in PRODUCTS else [])
        if kind in (*PRODUCTS, "Subgraph"):
            found |= {number: NAMES.get(precision, precision) for number in numbers}
    return dict(sorted(Counter(found.values()).items()))


def _computed(node: openvino.Node) -> str:
    """The widest precision that a fused attention reads: it goes by that of its mask, and may store eight bits."""
    parents = [value.get_node().get_rt_info()["outputPrecisions"] for value in node.input_values()]
    read = {name for precisions in parents for name in str(getattr(precisions, "value", precisions)).split(",")}
    return next((name for name in WIDEST if name in read), "u8")


def shortfall(found: dict[str, int], asked: dict[str, int]) -> str | None:
    """Which precision has fewer products than were asked for, ``None`` where none has.

    Args:
        found: Products by precision, as `executed` counts them.
        asked: Products by precision, at least.
    """
    for precision, count in asked.items():
        if found.get(precision, 0) < count:
            others = ", ".join(f"{number} in {name}" for name, number in found.items() if name != precision)
            return f"{found.get(precision, 0)} of {count} products in {precision} ({others or 'no others'})"
    return None


def check(compiled: openvino.CompiledModel, variant: Variant) -> None:
    """Compare what OpenVINO made of a graph here with what it made of it when it was built.

    Raises:
        IncompatibleError: Fewer products are computed in the precisions that the manifest counts.
    """
    if missing := shortfall(executed(compiled), variant.build.get(RECORD, {})):
        raise IncompatibleError(
            f"variant '{variant.name}': OpenVINO runs {missing} here, fewer than where it was built",
            hint="build a variant on this machine with `naflex-deploy bundle rebuild`",
        )
