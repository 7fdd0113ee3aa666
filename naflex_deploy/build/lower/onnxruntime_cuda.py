"""For ONNX Runtime on a GPU: fused attention over the pack, its types in the graph, any number of tokens.

LayerNormalization takes and returns half precision: its kernels sum in float32 within, so that no value of that type
ever reaches memory. Otherwise the islands of `precision` hold.
"""

from __future__ import annotations

from importlib.metadata import version

import onnx
import onnxruntime

from naflex_deploy.build.export import input_specs, output_specs
from naflex_deploy.build.lower import cuda_attention, cuda_fusions
from naflex_deploy.build.lower.attention_forms import rewrite_attention
from naflex_deploy.build.lower.precision import ISLANDS, convert
from naflex_deploy.build.lower.task import Task
from naflex_deploy.build.passes.graphs import Model, counts, read, write
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.sessions.cuda_provider import BACKEND

FORMS = {"fp16": "packed", "bf16": "rows", "fp32": "packed"}
"""Precision → form of attention that has kernels of it."""

PRECISIONS = tuple(FORMS)


def unavailable() -> str | None:
    """Never: a graph is written anywhere."""
    return None


def lower(task: Task) -> Variant:
    """Write the variant's graph and its weights.

    Raises:
        PassError: An attention was not recognised.
    """
    name = f"{BACKEND}-{task.precision}"
    path = task.directory / name / "model.onnx"
    path.parent.mkdir(parents=True)
    model = read(task.portable)
    before = counts(model)
    passes = rewrite(model, FORMS[task.precision], task.precision)
    model.stored = {}  # its weights are of another type or order than the portable graph's
    write(model, path, task.directory.parent)
    graph = onnx.load(str(path), load_external_data=False)
    return Variant(
        name=name,
        backend=BACKEND,
        target="cuda",
        precision=task.precision,
        model=f"{task.directory.name}/{name}/model.onnx",
        budgets=list(task.profile.budgets(BACKEND)),
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        passes=passes,
        versions={"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "torch": version("torch")},
        build={"operators": {"portable": before, "lowered": counts(model)}},
    )


def rewrite(model: Model, form: str, precision: str) -> list[dict[str, object]]:
    """Lower a graph in place; returns what was done, for the manifest."""
    changed = rewrite_attention(model, cuda_attention.FORMS[form])
    fused = cuda_fusions.fuse(model)
    convert(model.graph, precision, ISLANDS - {"LayerNormalization"})
    return [
        {"pass": "attention", "form": form, "changed": changed},
        *fused,
        {"pass": "precision", "precision": precision},
    ]
