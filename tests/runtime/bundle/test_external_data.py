"""What an ONNX graph reads is what the manifest lists for it, or the graph is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import FileEntry
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.external_data import MESSAGES, locations
from naflex_deploy.runtime.loading import load_engine
from tests.runtime.bundle.test_bundle import ENGINE_FILES, never
from tests.support.manifests import edit


def external(name: str) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", name), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def everywhere() -> onnx.ModelProto:
    """A model with an external tensor in every place that may hold one."""
    inner = helper.make_graph([], "inner", [], [], [external("subgraph")])
    sparse = onnx.SparseTensorProto(values=external("sparse values"), indices=external("sparse indices"))
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner),
        helper.make_node("Constant", [], ["k"], value=external("attribute")),
        onnx.NodeProto(attribute=[onnx.AttributeProto(name="t", tensors=[external("list of tensors")])]),
        onnx.NodeProto(attribute=[onnx.AttributeProto(name="g", graphs=[inner])]),
        onnx.NodeProto(attribute=[onnx.AttributeProto(name="s", sparse_tensor=sparse, sparse_tensors=[sparse])]),
    ]
    small = onnx.numpy_helper.from_array(np.arange(200, dtype=np.int64), "small")
    graph = helper.make_graph(nodes, "outer", [], [], [external("initializer"), small])
    graph.sparse_initializer.add().CopyFrom(sparse)
    model = helper.make_model(graph)
    default = helper.make_attribute("d", external("default of a function"))
    body = helper.make_node("Constant", [], ["k"], value=external("function"))
    model.functions.add(name="f", node=[body], attribute_proto=[default])
    model.training_info.add(algorithm=helper.make_graph([], "train", [], [], [external("training")]))
    return model


PLACES = {
    "attribute",
    "default of a function",
    "function",
    "initializer",
    "list of tensors",
    "sparse indices",
    "sparse values",
    "subgraph",
    "training",
}


def test_external_data_is_found_wherever_it_stands() -> None:
    assert set(locations(memoryview(everywhere().SerializeToString()))) == PLACES


def test_the_table_of_fields_is_that_of_onnx() -> None:
    def leads(message: Any) -> dict[int, str]:
        inner = {f.number: f.message_type.name for f in message.fields if f.message_type is not None}
        return {number: name for number, name in inner.items() if name in {*MESSAGES, "StringStringEntryProto"}}

    for name, fields in MESSAGES.items():
        found = leads(getattr(onnx, name).DESCRIPTOR)
        texts = {number for number, inner in found.items() if inner == "StringStringEntryProto"}
        if name == "TensorProto":
            assert TensorProto.DESCRIPTOR.fields_by_name["external_data"].number in texts
            texts -= {13}
        assert fields == {number: inner for number, inner in found.items() if number not in texts}, name


@given(st.data())
def test_a_damaged_graph_is_refused_or_read(data: st.DataObject) -> None:
    content = bytearray(everywhere().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        theirs = onnx.ModelProto.FromString(bytes(content))
    except Exception:  # what the package raises differs from version to version
        return
    try:
        ours = set(locations(memoryview(content)))
    except (ValueError, IndexError):
        return
    assert {e.value for i in theirs.graph.initializer for e in i.external_data if e.key == "location"} <= ours


def test_a_graph_that_reads_another_file_is_refused(own_bundle: Path) -> None:
    path = own_bundle / ENGINE_FILES[0]
    graph = onnx.load(path, load_external_data=False)
    shutil.copy(own_bundle / "portable.onnx.data", own_bundle / "other.data")
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("portable.onnx.data", "other.data")
    onnx.save(graph, path)
    edit(own_bundle, lambda content: content["files"].update({ENGINE_FILES[0]: FileEntry.of(path).model_dump()}))
    with pytest.raises(BundleError, match=r"model.onnx reads 'other.data', which the manifest does not list"):
        load_engine(own_bundle, session=never)
    bundle = Bundle.open(own_bundle)
    with pytest.raises(BundleError, match=r"model.onnx reads 'other.data'"):
        bundle.check(bundle.manifest.files)


def test_a_file_that_is_no_graph_is_refused(own_bundle: Path) -> None:
    path = own_bundle / ENGINE_FILES[0]
    path.write_bytes(b"\x3b" + path.read_bytes())
    edit(own_bundle, lambda content: content["files"].update({ENGINE_FILES[0]: FileEntry.of(path).model_dump()}))
    with pytest.raises(BundleError, match=r"model\.onnx is not an ONNX graph: field 7 has the wire type 3"):
        load_engine(own_bundle, session=never)


def test_a_circle_of_links_is_refused(own_bundle: Path) -> None:
    path = own_bundle / ENGINE_FILES[1]
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(BundleError, match=r"model.onnx.data (cannot be read|is missing)"):
        load_engine(own_bundle, session=never)
