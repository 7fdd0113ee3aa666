"""The fused operators of the domain ``naflex``, each with a body of stock operators that any ONNX runtime can run.

``PackedAttention``: queries attend to the keys of their own segment.

    query [Tq, H·d] (or one for all, [1, H·d]), key, value [T, H·d], query_segments [Tq], segments [T] → [Tq, H·d]

``ProbePool``: for every image and head, the mean of the tokens weighted by the softmax of their scores.

    tokens [T, D], scorer [D, H], images [M], segments [T] → [H, M, D]

``PositionInterpolation`` takes its body from the graph in which it was found; see `fuse_positions`.
"""

from __future__ import annotations

from onnx import FunctionProto, parser

DOMAIN = "naflex"
OPSET = 20
MASKED = -3e4

_ATTENTION = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
PackedAttention <heads, scale> (query, key, value, query_segments, segments) => (context)
{{
    heads_scalar = Constant <value_int: int = @heads> ()
    scale_scalar = Constant <value_float: float = @scale> ()
    masked = Constant <value_float: float = {MASKED}> ()
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    rest = Constant <value_ints: ints = [-1]> ()
    heads_dim = Unsqueeze (heads_scalar, zero)
    split_shape = Concat <axis: int = 0> (zero, heads_dim, rest)
    split_query = Reshape (query, split_shape)
    split_key = Reshape (key, split_shape)
    split_value = Reshape (value, split_shape)
    q = Transpose <perm: ints = [1, 0, 2]> (split_query)
    k = Transpose <perm: ints = [1, 2, 0]> (split_key)
    v = Transpose <perm: ints = [1, 0, 2]> (split_value)
    scaled = Mul (q, scale_scalar)
    scores = MatMul (scaled, k)
    rows = Unsqueeze (query_segments, one)
    columns = Unsqueeze (segments, zero)
    same = Equal (rows, columns)
    own = Where (same, scores, masked)
    weights = Softmax <axis: int = -1> (own)
    mixed = MatMul (weights, v)
    by_token = Transpose <perm: ints = [1, 0, 2]> (mixed)
    merged_shape = Concat <axis: int = 0> (zero, rest)
    context = Reshape (by_token, merged_shape)
}}
"""

_PROBE = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
ProbePool (tokens, scorer, images, segments) => (pooled)
{{
    masked = Constant <value_float: float = {MASKED}> ()
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    by_token = MatMul (tokens, scorer)
    by_head = Transpose <perm: ints = [1, 0]> (by_token)
    scores = Unsqueeze (by_head, one)
    rows = Unsqueeze (images, one)
    columns = Unsqueeze (segments, zero)
    same = Equal (rows, columns)
    own = Where (same, scores, masked)
    weights = Softmax <axis: int = -1> (own)
    pooled = MatMul (weights, tokens)
}}
"""

FUNCTIONS: dict[str, FunctionProto] = {
    "PackedAttention": parser.parse_function(_ATTENTION),
    "ProbePool": parser.parse_function(_PROBE),
}
