"""The graph for a CPU: same results, no tensor that grows with the square of the pack, weights stored once."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from naflex_deploy.compiler.backends.onnxruntime import lowering
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.passes.graphs import read, write
from naflex_deploy.compiler.passes.manager import PassError
from naflex_deploy.core.config import resolve
from naflex_deploy.runtime.backends.onnxruntime.session import SETTINGS
from tests.support import graphs
from tests.support.graphs import CASES, assert_equal, pack, portable

PROFILE = resolve("photo", environment={}).profile
PACKS = {
    "differing": (graphs.GRIDS, 0),
    "differing, with a tail": (graphs.GRIDS, 5),
    "equal": (((4, 4),) * 3, 0),
    "equal, with a tail": (((4, 4),) * 3, 16),
    "one": (((5, 4),), 0),
}


def lowered(name: str, folder: Path) -> tuple[Path, list[dict[str, object]]]:
    model = read(portable(name))
    record = lowering.rewrite(model)
    # The weights of both graphs are in one directory, as in a bundle.
    path = portable(name).parent / "variants" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    write(model, path, portable(name).parent)
    return path, record


@pytest.mark.parametrize("name", CASES)
def test_every_family_computes_the_same(name: str, tmp_path: Path) -> None:
    path, record = lowered(name, tmp_path)
    assert {"pass": "lower_attention", "changed": 2, "refused": {}} in record
    for grids, tail in PACKS.values():
        one = pack(name, grids, tail)
        assert_equal(graphs.run(path, one, root=portable(name).parent), graphs.run(portable(name), one))


def test_nothing_has_the_size_of_a_pack_squared(tmp_path: Path) -> None:
    """Peak memory of a pack of 4096 tokens in 64 images stays far below one T×T matrix of one head."""
    path, _ = lowered("siglip2", tmp_path)
    one = pack("siglip2", ((8, 8),) * 32 + ((4, 16),) * 31 + ((7, 8),), 8)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(portable("siglip2").parent)
    )
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    session.run(None, {value.name: one.view(value.name) for value in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text())
    sizes = [int(event["args"].get("output_size", 0)) for event in events if event["cat"] == "Node"]
    assert one.tokens == 4096
    assert max(sizes) < one.tokens**2
    assert max(sizes) >= one.tokens * 48 * 4  # The profile includes an MLP's hidden channels, so it was read correctly.


def test_weights_lie_in_the_portable_graphs_file(tmp_path: Path) -> None:
    root = portable("siglip2").parent
    variant = lowering.lower(Task(portable("siglip2"), tmp_path_in(root), PROFILE, "fp32"))
    assert variant.shares == ["portable.onnx.data"]
    graph = onnx.load(str(root / variant.model), load_external_data=False)
    places = collections.Counter(
        entry.value for t in graph.graph.initializer for entry in t.external_data if entry.key == "location"
    )
    own = f"{variant.model}.data"
    assert set(places) == {"portable.onnx.data", own}
    # Only weights that passes created are stored: the merged projection, and the folded probe's scorer and values.
    assert places[own] <= 4
    assert variant.inputs[-1].role == "cu_seqlens"
    assert variant.build["operators"]["portable"]["Softmax"] == 3
    assert [one["pass"] for one in variant.passes][:2] == ["split_gemm", "centre_pixels"]


def tmp_path_in(root: Path) -> Path:
    folder = root / "made"
    folder.mkdir(exist_ok=True)
    return folder


def test_sums_and_norms_stay_apart(tmp_path: Path) -> None:
    path, _ = lowered("siglip2", tmp_path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    root = portable("siglip2").parent
    for key, value in {**SETTINGS, "session.model_external_initializers_file_folder_path": str(root)}.items():
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False)
    found = collections.Counter(node.op_type for node in graph.graph.node)
    assert found["SkipLayerNormalization"] == 0
    assert found["LayerNormalization"] == 2 * 2 + 1 + 1


def test_an_attention_that_is_not_recognised_fails_the_build(tmp_path: Path) -> None:
    model = read(portable("siglip2"))
    for node in model.graph.nodes:
        if node.op == "Where":
            node.inputs[2] = model.constant("fill", np.float32(-1.0))
    with pytest.raises(PassError, match="masked scores become -1"):
        lowering.rewrite(model)
