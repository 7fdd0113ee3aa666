"""Lowers for ONNX Runtime on a CPU: attention image by image, positions and patches in one product, dynamic tokens.

The graph shares the weights of the portable graph, and stores only those that passes created.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime as ort

from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.compiler.backends.onnxruntime import quantize as cpu_quantize
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.export import input_specs, output_specs
from naflex_deploy.compiler.passes import manager
from naflex_deploy.compiler.passes.attend_by_image import lower_attention
from naflex_deploy.compiler.passes.graphs import Model, counts, every_node, locations, read, write
from naflex_deploy.compiler.passes.merge_positions import merge_positions
from naflex_deploy.compiler.quantize.prepare import prepare
from naflex_deploy.compiler.quantize.quantization import EMBEDDING, Quantization
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.machine import int8_warning
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.runtime.backends.onnxruntime.session import session_options
from naflex_deploy.runtime.bundle.golden import Float

PASSES = ("split_gemm", "centre_pixels", "split_qkv", "fuse_positions", "fuse_attention", "fold_probe")


class OnnxRuntimeLowering(Lowering):
    def lower(self, task: Task) -> Variant:
        return lower(task)


LOWERING = OnnxRuntimeLowering


def lower(task: Task) -> Variant:
    """Write the variant's graph.

    Raises:
        PassError: An attention was not recognised, so its mask would grow with the square of the pack.
        CalibrationError: The calibration was made for another graph.
        IncompatibleError: ONNX Runtime would run fewer 8-bit products than were quantised.
    """
    name = f"onnxruntime-cpu-{task.precision}"
    path = task.directory / name / "model.onnx"
    path.parent.mkdir(parents=True)
    root = task.portable.parent
    before = counts(read(task.portable))
    quantization = None
    if task.precision == "int8":
        quantization = prepare(task.portable, task.calibrated(), "u8", task.prefix, report=task.report)
    model, passes = lowered(task.portable, quantization)
    if quantization is not None:
        # Few float weights are left; storing them again spares an edge copy the portable graph's file of all weights.
        model.stored.clear()
    write(model, path, root)
    graph = onnx.load(str(path), load_external_data=False)
    build: dict[str, object] = {"operators": {"portable": before, "lowered": counts(model)}}
    if quantization is not None:
        build |= integer_products(path, root, len(quantization.layers))
        if warning := int8_warning():
            build["warning"] = warning
            task.report(f"warning: {warning}")
    return Variant(
        name=name,
        backend="onnxruntime",
        target="cpu",
        precision=task.precision,
        model=path.relative_to(root).as_posix(),
        shares=sorted(locations(model)),
        budgets=list(task.profile.budgets("onnxruntime")),
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        passes=passes,
        versions={package: version(package) for package in ("onnx", "onnxruntime", "torch")},
        build=build,
    )


def lowered(portable: Path, quantization: Quantization | None = None) -> tuple[Model, list[dict[str, object]]]:
    """The graph for a CPU, and the record of the passes that made it, for the manifest."""
    model = read(portable)
    if quantization is None:
        return model, rewrite(model)
    quantization.prepare(model)
    passes = rewrite(model, apart=EMBEDDING in quantization.layers)
    made = cpu_quantize.quantize(model, quantization.layers)
    return model, [*quantization.record(), *passes, {"pass": "quantize", "changed": made, "refused": {}}]


def runner(portable: Path, quantization: Quantization | None = None) -> Callable[[Pack], dict[str, Float]]:
    """Lower and load a graph, leaving no file; returns a function from a pack to its outputs, with the tail's rows."""
    root = portable.parent
    with tempfile.TemporaryDirectory(dir=root) as folder:
        path = Path(folder) / "model.onnx"
        model, _ = lowered(portable, quantization)
        write(model, path, root)
        return caller(ort.InferenceSession(path.read_bytes(), session_options(root)))


def caller(session: ort.InferenceSession) -> Callable[[Pack], dict[str, Float]]:
    """A function from a pack to all outputs of a loaded graph, including the rows of the tail."""
    roles = [Role(value.name) for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]

    def run(pack: Pack) -> dict[str, Float]:
        found = session.run(names, {role.value: pack.view(role) for role in roles})
        return dict(zip(names, found, strict=True))

    return run


def rewrite(model: Model, *, apart: bool = False) -> list[dict[str, object]]:
    """Lower a graph in place; returns the record of the passes, for the manifest.

    Args:
        apart: Keep the projection of patches and the product of positions as two products.
    """
    applied = manager.run(model, PASSES, complete=("fuse_attention",))
    refused = "the projection of patches is quantised" if apart else merge_positions(model)
    return [
        *(one.record() for one in applied),
        {"pass": "merge_positions", "changed": int(not refused), "refused": {"": refused} if refused else {}},
        {"pass": "lower_attention", "changed": lower_attention(model), "refused": {}},
    ]


def integer_products(path: Path, root: Path, asked: int) -> dict[str, object]:
    """Count the integer products in the graph that ONNX Runtime's optimiser makes of a lowered one.

    Raises:
        IncompatibleError: There are fewer than were asked for.
    """
    with tempfile.TemporaryDirectory(prefix="naflex-deploy-") as temporary:
        optimised = Path(temporary) / "optimised.onnx"
        options = session_options(root)
        options.optimized_model_filepath = str(optimised)
        ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(optimised), load_external_data=False).graph
    running = Counter(node.op_type for node in every_node(graph) if node.op_type in cpu_quantize.PRODUCTS)
    if sum(running.values()) < asked:
        raise IncompatibleError(
            f"ONNX Runtime {ort.__version__} runs {sum(running.values())} of {asked} quantised products in eight bits",
            hint="its optimiser has changed; build with the version in constraints.txt, or in fp32",
        )
    return {"int8_products": {"asked": asked, "running": dict(running)}}
