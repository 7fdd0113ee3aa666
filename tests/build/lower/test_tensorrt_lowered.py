"""Every form and precision that is given to TensorRT, executed by ONNX Runtime, is the reference model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from naflex_deploy.build.lower.precision import DTYPES
from naflex_deploy.build.lower.tensorrt import write_lowered
from naflex_deploy.build.lower.tensorrt_attention import refuse_dropped_lengths
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.core.rows import lay_rows, rows_needed
from naflex_deploy.runtime.golden import cosine
from tests.support.engines import ARCHITECTURES, exported

GRIDS = ((3, 5), (1, 1), (7, 4), (2, 9))
LENGTH = 32
SLOTS = 6

Graph = tuple[Path, list[Role]]


def lowered(folder: Path, name: str, form: str, precision: str) -> Path:
    path = folder / f"{name}-{form}-{precision}.onnx"
    write_lowered(exported(name).portable, path, form, precision)
    return path


def run(path: Path, pack: Pack) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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
    # Abs and Clip are of the position filter, Sin of rotary angles: what follows from places alone.
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
