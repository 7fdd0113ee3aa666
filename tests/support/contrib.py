"""Operators without CPU kernels, as functions of stock operators, written from their documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import FunctionProto, parser

from naflex_deploy.compiler.passes import functions as fused

DOMAIN = "test"

PACKED = """
<domain: "test", opset_import: ["" : 20]>
PackedMultiHeadAttention <num_heads, scale> (query, key, value, offsets, ends) => (output)
{
    heads = Constant <value_int: int = @num_heads> ()
    scale32 = Constant <value_float: float = @scale> ()
    masked32 = Constant <value_float: float = -30000.0> ()
    nothing = Constant <value_int: int = 0> ()
    step = Constant <value_int: int = 1> ()
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    both = Constant <value_ints: ints = [1, 2]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    all = Constant <value_ints: ints = [9223372036854775807]> ()
    factor = CastLike (scale32, query)
    masked = CastLike (masked32, query)
    heads_dim = Unsqueeze (heads, zero)
    batch = Shape <start: int = 0, end: int = 1> (offsets)
    length = Shape <start: int = 1, end: int = 2> (offsets)
    tokens = Shape <start: int = 0, end: int = 1> (query)
    width = Shape <start: int = 1, end: int = 2> (query)
    flat = Reshape (offsets, rest)
    flat64 = Cast <to: int = 7> (flat)
    places = Slice (flat64, zero, tokens)
    index = Unsqueeze (places, one)
    size = Mul (batch, length)
    full = Concat <axis: int = 0> (size, width)
    zeros32 = ConstantOfShape (full)
    zeros = CastLike (zeros32, query)
    padded_query = ScatterND (zeros, index, query)
    padded_key = ScatterND (zeros, index, key)
    padded_value = ScatterND (zeros, index, value)
    split = Concat <axis: int = 0> (batch, length, heads_dim, rest)
    split_query = Reshape (padded_query, split)
    split_key = Reshape (padded_key, split)
    split_value = Reshape (padded_value, split)
    q = Transpose <perm: ints = [0, 2, 1, 3]> (split_query)
    k = Transpose <perm: ints = [0, 2, 3, 1]> (split_key)
    v = Transpose <perm: ints = [0, 2, 1, 3]> (split_value)
    products = MatMul (q, k)
    scores = Mul (products, factor)
    starts = Slice (ends, zero, rest)
    stops = Slice (ends, one, all)
    lengths32 = Sub (stops, starts)
    lengths = Cast <to: int = 7> (lengths32)
    limit = Unsqueeze (lengths, one)
    last = Squeeze (length)
    steps = Range (nothing, last, step)
    inside = Less (steps, limit)
    mask = Unsqueeze (inside, both)
    own = Where (mask, scores, masked)
    weights = Softmax <axis: int = -1> (own)
    mixed = MatMul (weights, v)
    by_place = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
    rows = Reshape (by_place, full)
    output = Gather (rows, places)
}
"""

TRT = """
<domain: "test", opset_import: ["" : 20]>
TRT_Attention (query, key, value, query_ends, ends) => (context)
{
    first = Constant <value_int: int = 0> ()
    step = Constant <value_int: int = 1> ()
    one = Constant <value_ints: ints = [1]> ()
    masked32 = Constant <value_float: float = -30000.0> ()
    masked = CastLike (masked32, query)
    tokens = Shape <start: int = 0, end: int = 1> (query)
    count = Squeeze (tokens)
    range = Range (first, count, step)
    place = Unsqueeze (range, one)
    query_ends64 = Cast <to: int = 7> (query_ends)
    query_past = LessOrEqual (query_ends64, place)
    query_passed = Cast <to: int = 7> (query_past)
    query_sequence = ReduceSum <keepdims: int = 1> (query_passed, one)
    ends64 = Cast <to: int = 7> (ends)
    past = LessOrEqual (ends64, place)
    passed = Cast <to: int = 7> (past)
    sequences = ReduceSum <keepdims: int = 1> (passed, one)
    sequence = Transpose <perm: ints = [1, 0]> (sequences)
    own = Equal (query_sequence, sequence)
    q = Transpose <perm: ints = [1, 0, 2]> (query)
    k = Transpose <perm: ints = [1, 2, 0]> (key)
    v = Transpose <perm: ints = [1, 0, 2]> (value)
    products = MatMul (q, k)
    scores = Where (own, products, masked)
    weights = Softmax <axis: int = -1> (scores)
    mixed = MatMul (weights, v)
    context = Transpose <perm: ints = [1, 0, 2]> (mixed)
}
"""

PLUGIN = """
<domain: "test", opset_import: ["" : 20, "naflex" : 1]>
packed_attention <heads, scale> (query, key, value, segments, starts) => (context)
{
    q = Cast <to: int = 1> (query)
    k = Cast <to: int = 1> (key)
    v = Cast <to: int = 1> (value)
    mixed = naflex.PackedAttention <heads: int = @heads, scale: float = @scale> (q, k, v, segments, segments)
    context = CastLike (mixed, query)
}
"""

POSITIONS = """
<domain: "test", opset_import: ["" : 20, "test" : 1]>
position_interpolation (coords, grids, segments, table) => (positions)
{
    wide = Cast <to: int = 1> (table)
    exact = test.positions (coords, grids, segments, wide)
    positions = CastLike (exact, table)
}
"""

POSITION_INTERPOLATION = parser.parse_function(POSITIONS)

FUNCTIONS = {function.name: function for function in map(parser.parse_function, (PACKED, TRT, PLUGIN))}


def with_functions(path: Path, functions: Mapping[str, FunctionProto]) -> bytes:
    """A graph in which operators are functions, by operator."""
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        if node.op_type not in functions:
            continue
        function = functions[node.op_type]
        node.domain = DOMAIN
        inputs = [name for name in node.input if name]
        assert len(inputs) == len(function.input), node.op_type
        node.input[:] = inputs
        kept = [attribute for attribute in node.attribute if attribute.name in function.attribute]
        del node.attribute[:]
        node.attribute.extend(kept)
    model.functions.extend([*functions.values(), fused.FUNCTIONS["PackedAttention"]])
    model.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in (DOMAIN, fused.DOMAIN))
    return bytes(model.SerializeToString())
