"""For OpenVINO on a CPU: linear layers packed, attention in slots and rows, positions and patches in one product.

The graph shares its weights with the portable graph. The precision is a hint of compiling, not baked in: one graph
serves fp32, bf16 and fp16, and the precision that every product was given is read back and counted.
"""

from __future__ import annotations

from importlib.metadata import version

from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.compiler.backends.openvino.attention import lower_attention
from naflex_deploy.compiler.backends.openvino.files import GRAPH, products, shared, write
from naflex_deploy.compiler.backends.openvino.quantize import quantize
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.passes import manager
from naflex_deploy.compiler.passes.graphs import Model, counts, read
from naflex_deploy.compiler.passes.merge_positions import merge_positions
from naflex_deploy.compiler.quantize.prepare import prepare
from naflex_deploy.compiler.quantize.quantization import EMBEDDING, Quantization
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends.openvino import model as runtime
from naflex_deploy.runtime.backends.openvino.executed import NAMES, RECORD, executed, shortfall

PASSES = ("split_gemm", "centre_pixels", "split_qkv", "fuse_positions", "fuse_attention", "fold_probe")

FLOAT = (EMBEDDING, "blocks.0.query", "blocks.0.key", "blocks.0.out")
"""Layers that stay float. Positions share the product of patches. Of the layers that were tried alone, those around the
first attention lose most by rounding: a quarter of the mean loss on thumbnails, for 1.7 % of the time."""


class OpenVinoLowering(Lowering):
    def lower(self, task: Task) -> Variant:
        return lower(task)

    def attention(self, sizes: object) -> str:
        return "in slots and rows"


LOWERING = OpenVinoLowering


def lower(task: Task, quantization: Quantization | None = None) -> Variant:
    """Write the variant's graph, and read back what OpenVINO makes of it.

    Args:
        task: The variant to make.
        quantization: Of the graph, for int8; prepared here unless it is given.

    Raises:
        PassError: An attention was not recognised.
        CalibrationError: The calibration is of another graph.
        IncompatibleError: OpenVINO would compute fewer products in the precision than it was asked to.
    """
    name = f"openvino-cpu-{task.precision}"
    folder, root = task.directory / name, task.portable.parent
    folder.mkdir(parents=True)
    if task.precision == "int8" and quantization is None:
        quantization = prepare(task.portable, task.calibrated(), "u8", task.prefix, report=task.report)
    model = read(task.portable)
    before = counts(model)
    quantized, passes = rewrite(model, quantization)
    after = counts(model)
    inputs, outputs = write(model, folder, root)
    hint = runtime.hint(task.precision)
    compiled, _ = runtime.compiled(folder / GRAPH, root, hint)
    found, every = executed(compiled), products(folder)
    rest = NAMES[hint] if task.precision == "int8" else task.precision
    asked = {"int8": quantized, rest: every - quantized} if quantized else {rest: every}
    if missing := shortfall(found, asked):
        raise IncompatibleError(
            f"{runtime.library()} runs {missing}",
            hint="it chooses otherwise than the version of constraints.txt; install that one, or build in fp32",
        )
    return Variant(
        name=name,
        backend="openvino",
        target="cpu",
        precision=task.precision,
        model=(folder / GRAPH).relative_to(root).as_posix(),
        shares=shared(folder, root),
        budgets=list(task.profile.budgets("openvino")),
        inputs=inputs,
        outputs=outputs,
        passes=passes,
        versions={package: version(package) for package in ("onnx", "openvino", "torch")},
        build={"operators": {"portable": before, "lowered": after}, RECORD: found},
    )


def rewrite(model: Model, quantization: Quantization | None = None) -> tuple[int, list[dict[str, object]]]:
    """Lower a graph in place; returns how many layers were quantised, and what was done, for the manifest."""
    record: list[dict[str, object]] = []
    if quantization is not None:
        quantization.prepare(model)
        record += quantization.record()
    record += [one.record() for one in manager.run(model, PASSES, complete=("fuse_attention",))]
    refused = merge_positions(model)
    record.append({"pass": "merge_positions", "changed": int(not refused), "refused": {"": refused} if refused else {}})
    quantized = 0
    if quantization is not None:
        layers = {name: layer for name, layer in quantization.layers.items() if name not in FLOAT}
        quantized = quantize(model, layers)
        record.append({"pass": "quantize", "changed": quantized, "refused": {}})
    return quantized, [*record, {"pass": "lower_attention", "changed": lower_attention(model), "refused": {}}]
