"""Fuses biases and residual sums into the operators that follow them, for ONNX Runtime on a GPU.

ONNX Runtime's Gemm first writes the bias to every row and then adds the product to it. Fused into the next operator,
which passes over that memory anyway, the bias costs nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.attention_forms import FLOAT
from naflex_deploy.compiler.backends.onnxruntime_cuda.attention import CONTRIB
from naflex_deploy.compiler.passes.graphs import Model, label, producer
from naflex_deploy.compiler.passes.linear import Linear, linear_of


def fuse(model: Model) -> list[dict[str, object]]:
    """Rewrite a float32 graph in place; returns the record of the fusions, for the manifest."""
    done = [
        {"pass": "fold_attention_bias", "changed": fold_attention_bias(model), "refused": {}},
        {"pass": "fuse_bias_gelu", "changed": fuse_bias_gelu(model), "refused": {}},
        {"pass": "fuse_skip_norm", "changed": fuse_skip_norm(model), "refused": {}},
    ]
    model.graph.cleanup().toposort()
    return done


def fold_attention_bias(model: Model) -> int:
    """Remove the biases of keys and values before attention; returns how many were removed.

    A key's bias adds the same to all scores of a query, and softmax is invariant to that. Attention weights sum to 1,
    so a value's bias b is added to every context as it is, and moves into the bias of the output projection W as W·b.
    """
    count = 0
    for node in model.graph.nodes:
        if node.op not in ("PackedMultiHeadAttention", "MultiHeadAttention"):
            continue
        key, value = (_source(tensor) for tensor in node.inputs[1:3])
        if key is not None and np.any(key.bias):
            _drop_bias(model, key)
            count += 1
        out = _reader(node.outputs[0])
        if value is not None and out is not None and np.any(value.bias):
            bias = out.bias + value.bias.astype(np.float64) @ out.weight.astype(np.float64)
            out.node.inputs[2] = model.constant(f"{out.node.inputs[2].name}.folded", bias.astype(np.float32))
            _drop_bias(model, value)
            count += 1
    return count


def fuse_bias_gelu(model: Model) -> int:
    """Gemm, Gelu → MatMul, Gelu with a bias; returns how many."""
    count = 0
    for node in [node for node in model.graph.nodes if node.op == "Gelu"]:
        layer = _own(model, node.inputs[0])
        if layer is None:
            continue
        op = "FastGelu" if node.attrs.get("approximate") == "tanh" else "BiasGelu"
        bias = model.constant(f"{layer.node.name}.bias", layer.bias)
        outputs = list(node.outputs)
        node.outputs.clear()
        inputs = [_product(model, layer), bias]
        model.graph.nodes.append(gs.Node(op, label(node, op), {}, inputs, outputs, domain=CONTRIB))
        count += 1
    return count


def fuse_skip_norm(model: Model) -> int:
    """Gemm, Add to the residual, LayerNormalization → MatMul, SkipLayerNormalization; returns how many."""
    count = 0
    for node in [node for node in model.graph.nodes if node.op == "LayerNormalization"]:
        total = producer(node.inputs[0])
        found = _residual(model, total) if total is not None and total.op == "Add" else None
        if total is None or found is None or len(node.inputs) < 3:
            continue
        layer, skip = found
        op = "SkipLayerNormalization"
        bias = model.constant(f"{layer.node.name}.bias", layer.bias)
        outputs = [*node.outputs, gs.Variable.empty(), gs.Variable.empty(), *total.outputs]
        node.outputs.clear()
        total.outputs.clear()
        inputs = [_product(model, layer), skip, *node.inputs[1:3], bias]
        attributes = {"epsilon": node.attrs.get("epsilon", 1e-5)}
        model.graph.nodes.append(gs.Node(op, label(node, op), attributes, inputs, outputs, domain=CONTRIB))
        count += 1
    return count


def _residual(model: Model, total: gs.Node) -> tuple[Linear, gs.Tensor] | None:
    """The layer and the residual that an addition sums, both [T, D]."""
    shapes = [tensor.shape for tensor in total.inputs]
    if any(shape is None or len(shape) != 2 for shape in shapes) or shapes[0] != shapes[1]:
        return None
    for tensor, skip in (total.inputs, reversed(total.inputs)):
        layer = _own(model, tensor)
        if layer is not None:
            return layer, skip
    return None


def _own(model: Model, tensor: gs.Tensor) -> Linear | None:
    """The linear layer that computes a tensor, if the tensor has only one reader."""
    alone = len(tensor.outputs) == 1 and tensor not in model.graph.outputs
    return linear_of(tensor) if alone and tensor.dtype == FLOAT else None


def _product(model: Model, layer: Linear) -> gs.Variable:
    product = model.variable(f"{layer.y.name}.product")
    product.dtype, product.shape = FLOAT, layer.y.shape
    weight = model.constant(f"{layer.node.name}.weight", layer.weight)
    model.graph.nodes.append(gs.Node("MatMul", label(layer.node, "MatMul"), {}, [layer.x, weight], [product]))
    return product


def _source(tensor: gs.Tensor) -> Linear | None:
    """The Gemm with a bias that computes keys or values, looking through the Gather into rows."""
    node = producer(tensor)
    if node is not None and node.op == "Gather":
        tensor, node = node.inputs[0], producer(node.inputs[0])
    plain = node is not None and node.op == "Gemm" and len(node.inputs) > 2 and len(tensor.outputs) == 1
    return linear_of(tensor) if plain else None


def _reader(tensor: gs.Tensor) -> Linear | None:
    """The Gemm with a bias that reads a context, looking through the nodes that undo the rows."""
    while len(tensor.outputs) == 1:
        (node,) = tensor.outputs
        if node.op == "Gemm":
            return linear_of(node.outputs[0]) if len(node.inputs) > 2 and node.inputs[0] is tensor else None
        if node.op not in ("Reshape", "Gather"):
            return None
        tensor = node.outputs[0]
    return None


def _drop_bias(model: Model, layer: Linear) -> None:
    """Replace a Gemm by a MatMul without its bias."""
    y = layer.y
    product = _product(model, layer)
    layer.node.outputs.clear()
    (node,) = product.inputs
    node.outputs = [y]
