"""Every form and precision of the graph for TensorRT equals the reference model when ONNX Runtime executes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from naflex_deploy.compiler.backends.precision import DTYPES
from naflex_deploy.compiler.backends.tensorrt.attention import refuse_dropped_lengths
from naflex_deploy.compiler.backends.tensorrt.lowering import write_lowered
from naflex_deploy.compiler.passes import graphs, manager
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.core.rows import lay_rows, rows_needed
from naflex_deploy.runtime.results.figures import cosine
from tests.support import contrib
from tests.support import graphs as portables
from tests.support.engines import ARCHITECTURES, exported

GRIDS = ((3, 5), (1, 1), (7, 4), (2, 9))
LENGTH = 32
SLOTS = 6
ATTENTION = "TRT_Attention"

Graph = tuple[Path, list[Role]]


def lowered(folder: Path, name: str, form: str, precision: str) -> Path:
    path = folder / f"{name}-{form}-{precision}.onnx"
    write_lowered(exported(name).portable, path, form, precision)
    return path


def run(
    path: Path, pack: Pack, functions: Mapping[str, onnx.FunctionProto] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    graph = contrib.with_functions(path, functions)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    views = {}
    if Role.PAD_INDEX in names:
        rows = rows_needed(pack.tokens, LENGTH)
        views[Role.PAD_INDEX], views[Role.UNPAD_INDEX] = lay_rows(pack, rows, LENGTH)
    feeds = {name: views[name] if name in views else pack.view(Role(name)) for name in names}
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


@pytest.mark.parametrize("form", ["segment", "rows"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_float32_every_form_equals_the_reference(name: str, form: str, tmp_path: Path) -> None:
    model = exported(name)
    pack = model.pack(*GRIDS, tail=5)
    pack = Pack(pack.patches, pack.grid_hw, pack.offsets, pack.prefix, SLOTS)
    found = run(lowered(tmp_path, name, form, "fp32"), pack)
    for output, reference in model.reference(pack).items():
        error = np.abs(found[output][: len(reference)] - reference).max() / np.abs(reference).max()
        assert error < 1e-5, output
        assert np.isfinite(found[output]).all()


@pytest.mark.parametrize("form", ["segment", "rows"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_float16_weights_it_is_close_and_outputs_stay_float32(name: str, form: str, tmp_path: Path) -> None:
    model = exported(name)
    pack = model.pack(*GRIDS)
    found = run(lowered(tmp_path, name, form, "fp16"), pack)
    for output, reference in model.reference(pack).items():
        assert found[output].dtype == np.float32
        assert cosine(found[output], reference).min() > (0.9995 if output == "tokens" else 0.9999), output


@pytest.mark.parametrize(("precision", "pooled", "tokens"), [("fp32", 1 - 1e-9, 1 - 1e-9), ("fp16", 0.9999, 0.9995)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_attention_computes_the_reference(
    name: str, precision: str, pooled: float, tokens: float, tmp_path: Path
) -> None:
    """By sequences whose cumulative lengths start at 0, without a scale of its own, as TensorRT documents it."""
    model = exported(name)
    pack = model.pack(*GRIDS, tail=5)
    pack = Pack(pack.patches, pack.grid_hw, pack.offsets, pack.prefix, SLOTS)
    path = lowered(tmp_path, name, "packed", precision)
    nodes = [node for node in onnx.load(str(path), load_external_data=False).graph.node if node.op_type == ATTENTION]
    assert len(nodes) == 2
    for node in nodes:
        assert node.input[4] == node.input[5]
        assert attributes(node) == {"query_form": b"packed_nhd", "kv_form": b"packed_nhd"}
    found = run(path, pack, contrib.FUNCTIONS)
    for output, reference in model.reference(pack).items():
        least = cosine(found[output][: len(reference)], reference).min()
        assert least > (tokens if output == "tokens" else pooled), output


def plugin_functions(name: str) -> dict[str, onnx.FunctionProto]:
    """The plugins as functions; that of positions from the operators that it stands for."""
    model = graphs.read(exported(name).portable)
    manager.run(model, ("fuse_positions",))
    functions = dict(contrib.FUNCTIONS)
    for body in model.functions.values():
        own = onnx.FunctionProto()
        own.CopyFrom(body)
        own.name, own.domain = "positions", contrib.DOMAIN
        functions |= {own.name: own, contrib.POSITION_INTERPOLATION.name: contrib.POSITION_INTERPOLATION}
    return functions


@pytest.mark.parametrize(("precision", "pooled", "tokens"), [("fp32", 1 - 1e-9, 1 - 1e-9), ("fp16", 0.9999, 0.9995)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_plugins_compute_the_reference(name: str, precision: str, pooled: float, tokens: float, tmp_path: Path) -> None:
    model = exported(name)
    pack = model.pack(*GRIDS, tail=5)
    pack = Pack(pack.patches, pack.grid_hw, pack.offsets, pack.prefix, SLOTS)
    found = run(lowered(tmp_path, name, "plugin", precision), pack, plugin_functions(name))
    for output, reference in model.reference(pack).items():
        least = cosine(found[output][: len(reference)], reference).min()
        assert least > (tokens if output == "tokens" else pooled), output


def test_plugins_are_asked_for_as_they_are_registered(tmp_path: Path) -> None:
    graph = onnx.load(str(lowered(tmp_path, "siglip2", "plugin", "bf16")), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    attention, positions = (
        [node for node in graph.node if node.op_type == op] for op in ("packed_attention", "position_interpolation")
    )
    assert (len(attention), len(positions)) == (2, 1)
    common = {"plugin_namespace": b"naflex", "plugin_version": b"1", "aot": 1}
    for node in attention:
        assert list(node.input[3:]) == [Role.SEGMENT_IDS, Role.CU_SEQLENS]
        assert attributes(node) == {"heads": 4, "scale": pytest.approx(0.25, rel=1e-5)} | common
    (node,) = positions
    assert list(node.input[:3]) == [Role.COORDS, Role.GRID_HW, Role.SEGMENT_IDS]
    assert kinds[node.input[3]] == onnx.TensorProto.BFLOAT16
    assert attributes(node) == {"rows": 4, "columns": 4, "cubic": 0} | common
    assert all(node.domain == "" for node in graph.node)


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_islands_stay_float32_and_products_do_not(name: str, precision: str, tmp_path: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(
        onnx.load(str(lowered(tmp_path, name, "segment", precision))), strict_mode=True
    ).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    low = onnx.helper.np_dtype_to_tensor_dtype(DTYPES[precision])
    seen = {node.op_type: types[node.input[0]] for node in graph.node}
    # Abs and Clip belong to the position filter and Sin to rotary angles, which depend only on positions.
    for op in ("LayerNormalization", "Softmax", "Abs", "Clip", "Sin"):
        assert seen.get(op, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT, op
    assert {types[node.input[0]] for node in graph.node if node.op_type in ("Gemm", "MatMul", "Gelu")} == {low}
    assert all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in graph.initializer if len(tensor.dims) == 2)


def test_attention_that_would_lose_its_lengths_is_refused() -> None:
    node = onnx.helper.make_node("Attention", ["q", "k", "v", "", "", "", "lengths"], ["y"], "blocks.0/Attention")
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    with pytest.raises(IncompatibleError, match=r"blocks.0/Attention.*nonpad_kv_seqlen"):
        refuse_dropped_lengths(graph)
    del node.input[6]
    refuse_dropped_lengths(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])))


def test_rows_hold_whole_images_and_nothing_twice() -> None:
    images = [Patches(np.zeros((n, 3), np.uint8), (1, n)) for n in (30, 20, 17, 16, 1)]
    pack = Pack.of(images, tokens=90)
    pad, unpad = lay_rows(pack, rows_needed(90, 32), 32)
    placed = pad[pad >= 0]
    assert sorted(placed) == list(range(84))
    assert (pad.reshape(-1)[unpad[:84]] == np.arange(84)).all()
    for row in pad:
        for image in range(5):
            own = np.flatnonzero((row >= pack.offsets[image]) & (row < pack.offsets[image + 1]))
            assert len(own) in (0, len(images[image]))


IN_EVERY_RUN = ("Qwen3-VL", "rope mixed, gates")


@pytest.mark.parametrize(
    "name",
    [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.exhaustive) for name in portables.FAMILIES],
)
def test_in_float16_thin_grids_stay_in_place(name: str, tmp_path: Path) -> None:
    """Rotary angles, table entries and rows of blocks far from the first row and column."""
    one = portables.pack(name, ((1, 700), (500, 1), (3, 5)), 0)
    write_lowered(portables.portable(name), tmp_path / "lowered.onnx", "segment", "fp16")
    found = portables.run(tmp_path / "lowered.onnx", one)
    for output, values in portables.run(portables.portable(name), one).items():
        assert cosine(found[output], values).min() > 0.9995, output
