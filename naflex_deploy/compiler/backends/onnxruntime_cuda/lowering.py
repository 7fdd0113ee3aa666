"""Lowers for ONNX Runtime on a GPU: fused attention over the pack, explicit types, dynamic tokens.

LayerNormalization takes and returns half precision, because its kernels sum in float32 internally and no float32
tensor has to be written to memory. The other islands of `precision` stay float32.
"""

from __future__ import annotations

from importlib.metadata import version

import onnx
import onnxruntime

from naflex_deploy.compiler.backends.attention_forms import rewrite_attention
from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.compiler.backends.onnxruntime_cuda import attention as cuda_attention
from naflex_deploy.compiler.backends.onnxruntime_cuda import fusions as cuda_fusions
from naflex_deploy.compiler.backends.precision import ISLANDS, convert
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.export import input_specs, output_specs
from naflex_deploy.compiler.passes.graphs import Model, counts, read, write
from naflex_deploy.core.manifest import Sizes, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.onnxruntime_cuda.provider import BACKEND

FORMS = {"fp16": "packed", "bf16": "rows", "fp32": "packed"}
"""The form of attention that has kernels for each precision."""


class OnnxRuntimeCudaLowering(Lowering):
    def lower(self, task: Task) -> Variant:
        return lower(task)

    def sizes(self, profile: Profile, prefix: int) -> list[Sizes]:
        images = profile.max_images(BACKEND)
        return [{"tokens": tokens, "images": images} for tokens in profile.budgets(BACKEND)]


LOWERING = OnnxRuntimeCudaLowering


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
    model.stored = {}  # No weights are shared, because their type or order differs from the portable graph's.
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
