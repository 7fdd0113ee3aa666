"""The graph for a GPU: equal to the portable one where a CPU can run it, with operators used as declared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from naflex_deploy.compiler.backends.onnxruntime_cuda.attention import CONTRIB
from naflex_deploy.compiler.backends.onnxruntime_cuda.lowering import FORMS, lower, rewrite
from naflex_deploy.compiler.backends.registry import choose
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.passes.graphs import read, write
from naflex_deploy.compiler.passes.manager import PassError
from naflex_deploy.compiler.planning import engine_activation_bytes, plan
from naflex_deploy.core.config import resolve
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.core.rows import row_views
from naflex_deploy.runtime.backends.onnxruntime_cuda import provider as cuda_provider
from naflex_deploy.runtime.results.figures import cosine
from tests.support import contrib, cuda_kernels, graphs
from tests.support.graphs import CASES, FAMILIES, assert_equal, pack, portable

SCHEMAS = {schema.name: schema for schema in get_all_operator_schema() if schema.domain == CONTRIB}
PACKS = {"differing, with a tail": (graphs.GRIDS, 5), "equal": (((4, 4),) * 3, 0), "one": (((5, 4),), 0)}


def lowered(folder: Path, name: str, form: str, precision: str) -> Path:
    model = read(portable(name))
    rewrite(model, form, precision)
    model.stored = {}
    path = folder / f"{form}-{precision}.onnx"
    write(model, path, folder)
    return path


def run(path: Path, one: Pack) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    graph = contrib.with_functions(path, contrib.FUNCTIONS)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    roles = [Role(value.name) for value in session.get_inputs()]
    views = row_views(one, roles)
    found = session.run(None, {role: views[role] if role in views else one.view(role) for role in roles})
    names = [value.name for value in session.get_outputs()]
    return graphs.without_tail(dict(zip(names, found, strict=True)), one)


@pytest.mark.parametrize("form", ["packed", "rows"])
@pytest.mark.parametrize("name", CASES)
def test_in_float32_every_form_computes_the_same(name: str, form: str, tmp_path: Path) -> None:
    path = lowered(tmp_path, name, form, "fp32")
    for grids, tail in PACKS.values():
        one = pack(name, grids, tail)
        assert_equal(run(path, one), graphs.run(portable(name), one))


@pytest.mark.parametrize("form", ["packed", "rows"])
@pytest.mark.parametrize("name", ["siglip2", "rope, normed keys", "bicubic by gather"])
def test_in_float16_it_is_close_and_outputs_stay_float32(name: str, form: str, tmp_path: Path) -> None:
    one = pack(name)
    found, wanted = run(lowered(tmp_path, name, form, "fp16"), one), graphs.run(portable(name), one)
    for output, reference in wanted.items():
        assert found[output].dtype == np.float32
        assert cosine(found[output], reference).min() > (0.9995 if output == "tokens" else 0.9999), output


def test_unused_slots_change_nothing(tmp_path: Path) -> None:
    one = pack("siglip2")
    more = Pack(one.patches, one.grid_hw, one.offsets, one.prefix, one.images + 3)
    for form in ("packed", "rows"):
        path = lowered(tmp_path, "siglip2", form, "fp32")
        assert_equal(run(path, more), run(path, one))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sums_over_many_stay_float32_but_inside_norms(precision: str, tmp_path: Path) -> None:
    graph = onnx.load(str(lowered(tmp_path, "rope, normed keys", "rows", precision)), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    low = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    weighted = ("SkipLayerNormalization", "LayerNormalization", "MatMul", "Gemm", "FastGelu")
    found = {node.op_type: {kinds[name] for name in node.input if name in kinds} for node in graph.node}
    assert all(found[op] == {low} for op in weighted)
    casts = {node.output[0]: node.attribute[0].i for node in graph.node if node.op_type == "Cast"}
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    assert casts[softmax.input[0]] == onnx.TensorProto.FLOAT


def test_bfloat16_is_the_float16_graph_with_another_type(tmp_path: Path) -> None:
    """No CPU computes it as it stands; as float16 the same graph was held equal."""
    half, other = (
        onnx.load(str(lowered(tmp_path, "siglip2", "rows", precision)), load_external_data=False).graph
        for precision in ("fp16", "bf16")
    )
    assert [node.op_type for node in half.node] == [node.op_type for node in other.node]
    types = {onnx.TensorProto.FLOAT16: onnx.TensorProto.BFLOAT16}
    for one, two in zip(half.initializer, other.initializer, strict=True):
        assert (types.get(one.data_type, one.data_type), one.dims) == (two.data_type, two.dims)
    for first, second in zip(half.node, other.node, strict=True):
        if first.op_type == "Cast":
            assert types.get(first.attribute[0].i, first.attribute[0].i) == second.attribute[0].i


@pytest.mark.parametrize(("form", "precision"), [("packed", "fp16"), ("rows", "bf16"), ("packed", "fp32")])
@pytest.mark.parametrize("name", CASES)
def test_every_operator_has_a_kernel_on_gpus(name: str, form: str, precision: str, tmp_path: Path) -> None:
    graph = onnx.load(str(lowered(tmp_path, name, form, precision)), load_external_data=False).graph
    assert not list(cuda_kernels.without_kernel(graph))


@pytest.mark.parametrize("precision", FORMS)
def test_operators_are_used_as_onnx_runtime_declares_them(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = lower(Task(portable("siglip2"), tmp_path / "variants", resolve("photo").profile, precision))
    monkeypatch.chdir(tmp_path)  # External data is named relative to the working directory.
    model = onnx.load(variant.model, load_external_data=False)
    onnx.checker.check_model(model)
    own = [node for node in model.graph.node if node.domain == CONTRIB]
    attention = "MultiHeadAttention" if precision == "bf16" else "PackedMultiHeadAttention"
    assert {node.op_type for node in own} == {attention, "FastGelu", "SkipLayerNormalization"}
    kind = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)", "fp32": "tensor(float)"}[precision]
    for node in own:
        schema = SCHEMAS[node.op_type]
        assert {attribute.name for attribute in node.attribute} <= set(schema.attributes)
        given = dict(zip(schema.inputs, node.input, strict=False))
        assert len(node.input) <= len(schema.inputs)
        required = [one for one in schema.inputs if one.option.name == "Single"]
        assert all(given[one] for one in required)
        allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        assert kind in allowed["T"]


def test_the_variant_holds_its_own_weights_and_names_its_inputs(tmp_path: Path) -> None:
    variant = lower(Task(portable("siglip2"), tmp_path / "variants", resolve("doc-ocr").profile, "fp16"))
    assert (variant.name, variant.backend, variant.target) == ("onnxruntime-cuda-fp16", "onnxruntime-cuda", "cuda")
    assert variant.budgets == [1024, 4096, 16384]
    assert variant.shares == []
    assert [spec.role for spec in variant.inputs[-2:]] == [Role.CU_SEQLENS, Role.TOKEN_OFFSET]
    graph = onnx.load(str(tmp_path / variant.model), load_external_data=False).graph
    places = {entry.value for t in graph.initializer for entry in t.external_data if entry.key == "location"}
    assert places == {f"{variant.model}.data"}
    counts = {one["pass"]: one["changed"] for one in variant.passes if "changed" in one}
    # Two blocks: biases of keys and values; an MLP each, plus the pooling head's; two norms each, plus the last.
    assert counts == {"attention": 2, "fold_attention_bias": 4, "fuse_bias_gelu": 3, "fuse_skip_norm": 5}


def test_an_attention_that_is_not_recognised_fails_the_build() -> None:
    model = read(portable("siglip2"))
    for node in model.graph.nodes:
        if node.op == "Where":
            node.inputs[2] = model.constant("fill", np.float32(-1.0))
    with pytest.raises(PassError, match="masked scores become -1"):
        rewrite(model, "packed", "fp16")


def test_it_is_taken_where_it_runs_and_built_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    only = resolve("photo", overrides={"engine.backends": ["onnxruntime-cuda"]})
    lowering, precision = choose(only.profile)
    backend = lowering.backend
    assert (backend.name, precision, backend.cannot_build()) == ("onnxruntime-cuda", "fp16", None)
    assert backend.precisions == tuple(FORMS)
    assert "NVIDIA" in (backend.cannot_run() or "")
    assert choose(resolve("photo").profile)[0].backend.name in ("openvino", "onnxruntime")
    monkeypatch.setattr(cuda_provider, "no_machine", lambda: None)
    planned = plan(only, None)
    assert (planned.backend, planned.budgets[0].attention) == ("onnxruntime-cuda", "image by image")
    architecture = FAMILIES["siglip2"]
    small, large = (
        engine_activation_bytes(architecture, sizes, 2) for sizes in lowering.sizes(resolve("photo").profile, 0)[:2]
    )
    assert 0 < small < large
