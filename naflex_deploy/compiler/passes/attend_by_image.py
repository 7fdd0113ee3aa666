"""Fused attention for ONNX Runtime on a CPU: unmasked ``MultiHeadAttention``, one image at a time.

A mask over the pack would compute T² scores and throw most of them away. Instead,

- if all images have the same number of tokens, a single call takes them as a batch, without moving any row;
- otherwise a loop over the images slices their rows, calls the kernel, and concatenates the results.

The kernel processes keys in blocks that fit the cache, so memory never grows with T².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes.graphs import Model, label
from naflex_deploy.core.pack import Role

CONTRIB = "com.microsoft"
FIRST, ALL = 0, np.iinfo(np.int64).max


@dataclass(frozen=True)
class Layout:
    """The layout of images in the pack, computed once for all layers.

    Attributes:
        offsets: First token of each image, [M+1] int64.
        images: Number of images M as a scalar, [] int64.
        images_1d: Number of images M as a vector, [1] int64.
        uniform: Whether all images have the same length and there is no tail, [] bool.
    """

    offsets: gs.Tensor
    images: gs.Tensor
    images_1d: gs.Tensor
    uniform: gs.Tensor


class Builder:
    """Appends nodes to a graph or to the body of a control flow operator."""

    def __init__(self, model: Model, nodes: list[gs.Node], scope: str) -> None:
        self.model = model
        self.nodes = nodes
        self.scope = scope
        self.taken: set[str] = set()

    def __call__(self, op: str, *inputs: gs.Tensor, domain: str | None = None, **attributes: object) -> gs.Tensor:
        """Append a node with one output, and return that output."""
        output = self.variable(op)
        self.nodes.append(gs.Node(op, output.name, dict(attributes), list(inputs), [output], domain=domain))
        return output

    def variable(self, name: str) -> gs.Variable:
        candidate, number = f"{self.scope}/{name}", 2
        while candidate in self.taken:
            candidate, number = f"{self.scope}/{name}_{number}", number + 1
        self.taken.add(candidate)
        return gs.Variable(candidate)

    def integers(self, *values: int) -> gs.Constant:
        """A [n] int64 constant."""
        name = self.variable("constant").name
        return gs.Constant(name, np.array(values, np.int64))


def lower_attention(model: Model) -> int:
    """Rewrite every fused self-attention of the tokens in place; returns how many were rewritten."""
    found = [node for node in model.graph.nodes if node.op == "PackedAttention" and node.inputs[3] is node.inputs[4]]
    if found:
        layout = _layout(model)
        for node in found:
            _rewrite(model, node, layout)
        model.tidy()
    return len(found)


def _layout(model: Model) -> Layout:
    cu_seqlens = model.input(Role.CU_SEQLENS)
    if cu_seqlens is None:
        cu_seqlens = gs.Variable(Role.CU_SEQLENS.value, np.int32, ["images+1"])
        model.graph.inputs.append(cu_seqlens)
    patches = model.input(Role.PATCHES)
    b = Builder(model, model.graph.nodes, "layout")
    offsets = b("Cast", cu_seqlens, to=np.int64)
    images_1d = b("Sub", b("Shape", offsets), b.integers(1))
    starts = b("Slice", offsets, b.integers(0), b.integers(-1))
    ends = b("Slice", offsets, b.integers(1), b.integers(ALL))
    lengths = b("Sub", ends, starts)
    longest, shortest = b("ReduceMax", lengths, keepdims=1), b("ReduceMin", lengths, keepdims=1)
    tokens = b("Shape", patches, start=0, end=1)
    uniform = b(
        "And",
        b("Equal", longest, shortest),
        b("Equal", tokens, b("Mul", longest, images_1d)),
    )
    return Layout(offsets, b("Squeeze", images_1d), images_1d, b("Squeeze", uniform))


def _rewrite(model: Model, node: gs.Node, layout: Layout) -> None:
    query, key, value = node.inputs[:3]
    (context,) = node.outputs
    attributes = {"num_heads": node.attrs["heads"], "scale": node.attrs["scale"]}
    scope = label(node, "MultiHeadAttention")
    node.outputs.clear()
    model.graph.nodes.append(
        gs.Node(
            "If",
            scope,
            {
                "then_branch": _batched(model, f"{scope}/batched", (query, key, value), attributes, layout),
                "else_branch": _looped(model, f"{scope}/looped", (query, key, value), attributes, layout),
            },
            [layout.uniform],
            [context],
        )
    )


def _batched(
    model: Model, scope: str, qkv: tuple[gs.Tensor, ...], attributes: dict[str, object], layout: Layout
) -> gs.Graph:
    """The branch that attends to all images in one call."""
    graph = gs.Graph(name=scope, opset=model.graph.opset)
    b = Builder(model, graph.nodes, scope)
    width = qkv[0].shape[-1]
    shape = b("Concat", layout.images_1d, b.integers(-1, width), axis=0)
    rows = [b("Reshape", tensor, shape) for tensor in qkv]
    mixed = b("MultiHeadAttention", *rows, domain=CONTRIB, **attributes)
    graph.outputs = [b("Reshape", mixed, b.integers(-1, width))]
    return graph


def _looped(
    model: Model, scope: str, qkv: tuple[gs.Tensor, ...], attributes: dict[str, object], layout: Layout
) -> gs.Graph:
    """The branch that attends image by image, and keeps the rows of the tail."""
    graph = gs.Graph(name=scope, opset=model.graph.opset)
    b = Builder(model, graph.nodes, scope)
    empty = b("SequenceEmpty", dtype=1)
    always = gs.Constant(b.variable("always").name, np.array(True))
    contexts = b.variable("contexts")
    body = _one_image(model, f"{scope}/image", qkv, attributes, layout)
    graph.nodes.append(gs.Node("Loop", scope, {"body": body}, [layout.images, always, empty], [contexts]))
    end = b("Slice", layout.offsets, b.integers(-1), b.integers(ALL))
    tail = b("Slice", qkv[0], end, b.integers(ALL))
    graph.outputs = [b("ConcatFromSequence", b("SequenceInsert", contexts, tail), axis=0)]
    return graph


def _one_image(
    model: Model, scope: str, qkv: tuple[gs.Tensor, ...], attributes: dict[str, object], layout: Layout
) -> gs.Graph:
    graph = gs.Graph(name=scope, opset=model.graph.opset)
    b = Builder(model, graph.nodes, scope)
    index = gs.Variable(f"{scope}/index", np.int64, [])
    condition = gs.Variable(f"{scope}/condition", np.bool_, [])
    before = gs.Variable(f"{scope}/before", np.float32, None, type="sequence_type")
    graph.inputs = [index, condition, before]
    first = b("Unsqueeze", index, b.integers(0))
    start = b("Gather", layout.offsets, first)
    end = b("Gather", layout.offsets, b("Add", first, b.integers(1)))
    rows = [b("Unsqueeze", b("Slice", tensor, start, end), b.integers(0)) for tensor in qkv]
    mixed = b("MultiHeadAttention", *rows, domain=CONTRIB, **attributes)
    after = b("SequenceInsert", before, b("Squeeze", mixed, b.integers(0)))
    graph.outputs = [b("Identity", condition), after]
    return graph
