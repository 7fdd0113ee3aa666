"""A transformers SigLIP2 model under big_vision's names."""

from __future__ import annotations

import numpy as np

from tests.support.siglip2 import SMALL

WIDTH, HEADS = SMALL["hidden_size"], SMALL["num_attention_heads"]


def attention(query, key, value, out):
    """Flax's arrays for four (weight, bias) pairs."""
    arrays = {}
    for name, (weight, bias) in {"query": query, "key": key, "value": value}.items():
        arrays[f"{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
        arrays[f"{name}/bias"] = bias.reshape(HEADS, -1)
    arrays["out/kernel"] = out[0].T.reshape(HEADS, -1, WIDTH)
    arrays["out/bias"] = out[1]
    return arrays


def flax_arrays(original, root="params/img/", stacked=False, head=True):
    """The image tower of a two-tower file."""
    tensors = {name.removeprefix("vision_model."): t.numpy() for name, t in original.state_dict().items()}

    def pair(name):
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def norm(theirs, ours):
        scale, bias = pair(ours)
        return {f"{theirs}/scale": scale, f"{theirs}/bias": bias}

    def dense(theirs, ours):
        weight, bias = pair(ours)
        return {f"{theirs}/kernel": weight.T, f"{theirs}/bias": bias}

    def under(prefix, arrays):
        return {f"{prefix}/{name}": array for name, array in arrays.items()}

    arrays = dense("embedding", "embeddings.patch_embedding")
    arrays["pos_embedding"] = tensors["embeddings.position_embedding.weight"].reshape(16, 16, WIDTH)
    blocks = []
    for i in range(SMALL["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        projections = (pair(f"{layer}.self_attn.{name}_proj") for name in ("q", "k", "v", "out"))
        blocks.append(
            norm("LayerNorm_0", f"{layer}.layer_norm1")
            | norm("LayerNorm_1", f"{layer}.layer_norm2")
            | under("MultiHeadDotProductAttention_0", attention(*projections))
            | dense("MlpBlock_0/Dense_0", f"{layer}.mlp.fc1")
            | dense("MlpBlock_0/Dense_1", f"{layer}.mlp.fc2")
        )
    if stacked:
        arrays |= {f"Transformer/encoderblock/{name}": np.stack([b[name] for b in blocks]) for name in blocks[0]}
    else:
        for i, block in enumerate(blocks):
            arrays |= under(f"Transformer/encoderblock_{i}", block)
    arrays |= norm("Transformer/encoder_norm", "post_layernorm")
    if head:
        weights = np.split(tensors["head.attention.in_proj_weight"], 3)
        biases = np.split(tensors["head.attention.in_proj_bias"], 3)
        pairs = [*zip(weights, biases, strict=True), pair("head.attention.out_proj")]
        arrays["MAPHead_0/probe"] = tensors["head.probe"]
        arrays |= under("MAPHead_0/MultiHeadDotProductAttention_0", attention(*pairs))
        arrays |= norm("MAPHead_0/LayerNorm_0", "head.layernorm")
        arrays |= dense("MAPHead_0/MlpBlock_0/Dense_0", "head.mlp.fc1")
        arrays |= dense("MAPHead_0/MlpBlock_0/Dense_1", "head.mlp.fc2")
    return {f"{root}{name}": array for name, array in arrays.items()}
