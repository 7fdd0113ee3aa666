"""Which files hold the weights of an ONNX graph, read from the graph itself, as the runtime has no package onnx.

An engine opens whatever file a graph names. Only the files that a manifest lists were compared with a digest, so a
graph that names another one is refused before an engine sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.protobuf import EIGHT, FOUR, LENGTH, VARINT, varint

MESSAGES = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""Fields that lead to external data: number in onnx.proto → message."""

_DEEPEST = 100
"""Levels of messages, as Protocol Buffers themselves allow."""


def refuse_unnamed_data(graph: Path, content: bytes, named: set[str], folder: str = ".") -> None:
    """Refuse a graph that reads other files than those that were checked.

    Args:
        graph: Path of the graph, for errors.
        content: The graph.
        named: Paths of the files that were checked, relative to the bundle.
        folder: Path that the paths in the graph are relative to, relative to the bundle.

    Raises:
        BundleError: The graph reads another file, or is damaged.
    """
    try:
        found = set(locations(memoryview(content)))
    except (ValueError, IndexError) as error:
        raise BundleError(f"{graph} is not an ONNX graph: {error}", hint="copy or build the bundle again") from None
    for name in sorted(name for name in found if str(PurePosixPath(folder, name)) not in named):
        raise BundleError(
            f"{graph} reads {name[:200]!r}, which the manifest does not list for it",
            hint="do not use the bundle; get it again from whoever made it",
        )


def locations(content: memoryview, message: str = "ModelProto", depth: int = 0) -> Iterator[str]:
    """The location of every external tensor of a serialised message.

    Raises:
        ValueError, IndexError: It is no such message.
    """
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels of messages")
    if message == "StringStringEntryProto":
        entry = {number: bytes(value) for number, value in _fields(content)}
        if entry.get(1) == b"location":
            yield entry.get(2, b"").decode("utf-8", "backslashreplace")
        return
    for number, value in _fields(content):
        if inner := MESSAGES[message].get(number):
            yield from locations(value, inner, depth + 1)


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of every field that has a length."""
    place = 0
    while place < len(content):
        key, place = varint(content, place)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == VARINT:
            _, place = varint(content, place)
            continue
        if kind not in (EIGHT, LENGTH, FOUR):
            raise ValueError(f"field {number} has the wire type {kind}")
        size, place = varint(content, place) if kind == LENGTH else (8 if kind == EIGHT else 4, place)
        end = place + size
        if end > len(content):
            raise ValueError(f"field {number} is cut off")
        if kind == LENGTH:
            yield number, content[place:end]
        place = end
