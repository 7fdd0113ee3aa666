"""The graph for OpenVINO: the results of the portable graph for any pack, in the precision that was asked for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("openvino", reason="OpenVINO is an extra")

from naflex_deploy.compiler.backends.openvino import files, lowering
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.openvino import model
from naflex_deploy.runtime.backends.openvino.session import OpenVinoSession
from naflex_deploy.runtime.results.figures import cosine
from tests.support import graphs
from tests.support.calibrations import observed
from tests.support.graphs import CASES, FAMILIES, GRIDS, assert_equal, pack, portable
from tests.support.packs import random_images

PROFILE = resolve("photo", environment={}).profile
needs_bf16 = pytest.mark.skipif("BF16" not in model.capabilities(), reason="this CPU has no bf16 units")


@cache
def lowered(name: str, precision: str = "fp32") -> Variant:
    directory = portable(name).parent / f"openvino-{precision}"
    return lowering.lower(Task(portable(name), directory, PROFILE, precision, FAMILIES[name].prefix))


def run(name: str, one: Pack, precision: str = "fp32") -> dict[str, np.ndarray]:
    variant = lowered(name, precision)
    session = OpenVinoSession(portable(name).parent, variant)
    outputs = [spec.name for spec in variant.outputs]
    return graphs.without_tail(dict(session.run(one, outputs)), one)


def compiled(root: Path, variant: Variant) -> list[dict[str, str]]:
    """What OpenVINO made of each operator of a variant; ``reads`` says from which kinds of operators it reads."""
    hint = model.hint(variant.precision)
    made, _ = model.compiled(root / variant.model, root, hint)
    found = {}
    for node in made.get_runtime_model().get_ordered_ops():
        about = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        sources = {found[value.get_node().get_friendly_name()]["layerType"] for value in node.input_values()}
        found[node.get_friendly_name()] = {**about, "reads": " ".join(sorted(sources))}
    return list(found.values())


@pytest.mark.parametrize("name", CASES)
def test_every_family_computes_the_same(name: str) -> None:
    """More images than slots, of differing lengths, not sorted, with a tail."""
    one = pack(name, ((2, 3), *graphs.GRIDS, (4, 4), (1, 1), (12, 2)), 5)
    assert_equal(run(name, one), graphs.run(portable(name), one))


@needs_bf16
@pytest.mark.parametrize("name", CASES)
def test_in_bf16_thin_grids_stay_in_place(name: str) -> None:
    """Rotary angles, table entries and rows of blocks far from the first row and column."""
    one = pack(name, ((1, 700), (500, 1), (3, 5)), 0)
    found, wanted = run(name, one, "bf16"), graphs.run(portable(name), one)
    for output, values in wanted.items():
        assert cosine(found[output], values).min() > 0.998, output


@needs_bf16
def test_every_product_runs_in_bf16_and_places_do_not() -> None:
    """Columns of a grid of 1x700 lie closer together than bf16 can tell apart."""
    variant = lowered("siglip2", "bf16")
    graph = onnx.load(str(portable("siglip2").parent / variant.model), load_external_data=False)
    every = sum(node.op_type in ("Gemm", "MatMul") for node in graph.graph.node)
    assert variant.build["products"] == {"bf16": every}
    one = pack("siglip2", ((1, 700), (3, 5)), 0)
    found, wanted = run("siglip2", one, "bf16"), graphs.run(portable("siglip2"), one)
    for name, values in wanted.items():
        assert cosine(found[name], values).min() > 0.9995, name
    places = onnx.load(str((portable("siglip2").parent / variant.model).with_name("places.onnx")))
    assert {value.name for value in places.graph.input} == {"coords", "grid_hw", "segment_ids"}


def test_keys_are_moved_as_rows_and_transposed_by_their_product() -> None:
    root = portable("siglip2").parent
    read, _ = model.read(root / lowered("siglip2", "fp32").model, root, "f32")
    products = [op for op in read.get_ordered_ops() if op.get_type_name() == "MatMul"]
    scores = [op for op in products if op.input_value(1).get_node().get_type_name() == "Transpose"]
    as_rows = [op for op in scores if op.get_attributes()["transpose_b"]]
    assert len(as_rows) == 2 * 5, "two blocks of four slots and rows"
    assert {op.input_value(1).get_node().input_value(1).get_node().data.tolist()[2] for op in as_rows} == {1}


def test_weights_are_shared_with_the_portable_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small model, whose weights count as large here."""
    monkeypatch.setattr(files, "OUTSIDE_BYTES", 4096)
    root = portable("siglip2").parent
    variant = lowering.lower(Task(portable("siglip2"), root / "shared", PROFILE, "fp32"))
    assert variant.shares == ["portable.onnx.data"]
    table = json.loads((root / variant.model).with_name("weights.json").read_text())
    own = {entry["file"] for entry in table.values()} - set(variant.shares)
    assert own == {"shared/openvino-cpu-fp32/weights.bin"}
    assert [entry["factor"] for entry in table.values() if "factor" in entry] == [0.25] * 2, "scales of queries"
    one = pack("siglip2")
    found = OpenVinoSession(root, variant).run(one, ["pooled"])["pooled"]
    assert_equal({"pooled": found}, {"pooled": graphs.run(portable("siglip2"), one)["pooled"]})


@needs_bf16
def test_weights_are_kept_in_bf16_and_nothing_is_computed_from_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "OUTSIDE_BYTES", 4096)
    root = portable("siglip2").parent
    variant = lowering.lower(Task(portable("siglip2"), root / "low", PROFILE, "bf16"))
    table = json.loads((root / variant.model).with_name("weights.json").read_text())
    made = compiled(root, variant)
    kept = [about for about in made if about["layerType"] == "Const" and about["runtimePrecision"] == "bf16"]
    assert len(kept) == len(table) > 12
    assert ("Eltwise", "Const") not in [(about["layerType"], about["reads"]) for about in made]


def test_int8_runs_what_was_quantised_in_eight_bits(tmp_path: Path) -> None:
    spec = observed(portable("siglip2"), random_images(GRIDS * 30, 4, seed=5), 0)
    variant = lowering.lower(
        Task(portable("siglip2"), portable("siglip2").parent / "int8", PROFILE, "int8", 0, calibration=spec)
    )
    assert variant.build["products"]["int8"] == 9, "six layers a block, but three in the first"
    root = portable("siglip2").parent
    session = OpenVinoSession(root, variant)
    one = pack("siglip2")
    found, wanted = session.run(one, ["pooled"])["pooled"], graphs.run(portable("siglip2"), one)["pooled"]
    assert cosine(found, wanted).min() > 0.99
    kinds = [about["layerType"] for about in compiled(root, variant)]
    assert kinds.count("FullyConnected") >= 9
    # Values of the first block, which share their input with queries and keys in float.
    assert kinds.count("FakeQuantize") == 1, "rounding takes passes of its own"


def test_fewer_products_than_asked_for_fail_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lowering.runtime, "hint", lambda precision: "f32")
    task = Task(portable("siglip2"), portable("siglip2").parent / "short", PROFILE, "bf16")
    with pytest.raises(IncompatibleError, match=r"0 of 40 products in bf16 \(40 in fp32\)"):
        lowering.lower(task)


def test_a_session_refuses_what_falls_back_where_it_runs() -> None:
    variant = lowered("siglip2", "fp32")
    claimed = variant.model_copy(update={"build": {"products": {"bf16": 40}}})
    with pytest.raises(IncompatibleError, match="0 of 40 products in bf16"):
        OpenVinoSession(portable("siglip2").parent, claimed)
