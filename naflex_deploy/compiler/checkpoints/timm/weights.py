"""timm's NaFlexVit tensors under our names.

What needs no node of its own in the graph is folded here: LayerScale into the projection before it, missing biases
to zeros, stacked q/k/v to three projections, shared key and value heads repeated, convolutional or channels-first
patch projections to (row, column, channel), projections of grey pixels to three channels, and neighbouring rotary
pairs to halves.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from naflex_deploy.compiler.checkpoints.tensors import Tensors, with_three_channels
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.model.architecture import Architecture

Named = Iterator[tuple[str, Tensor]]


def timm_weights(config: TimmConfig, a: Architecture, tensors: Tensors) -> Named:
    """(our name, tensor) for everything the packed model needs."""
    d = a.width
    yield from _embedding(config, a, tensors)
    if a.pre_norm:
        yield from tensors.norm("pre_norm", "norm_pre", d).items()
    if a.rope is not None and a.rope.kind == "mixed":
        yield "rope.frequencies", tensors.take("rope.freqs", 2, a.depth, a.heads, a.head_width // 2).transpose(0, 1)
    for i in range(a.depth):
        ours, theirs = f"blocks.{i}", f"blocks.{i}"
        yield from tensors.norm(f"{ours}.norm1", f"{theirs}.norm1", d).items()
        yield from _attention(config, a, tensors, i)
        yield from tensors.norm(f"{ours}.norm2", f"{theirs}.norm2", d).items()
        yield from _mlp(config, a, tensors, i)
    if a.final_norm == "tokens":
        yield from tensors.norm("norm", "norm", d).items()
    elif a.final_norm == "pooled":
        yield from tensors.norm("pooled_norm", "fc_norm", d).items()
    if a.pooling == "map":
        yield from _map_pool(a, tensors)
    if a.classes:
        yield from tensors.linear("classifier", "head", a.classes, d).items()


def _embedding(config: TimmConfig, a: Architecture, tensors: Tensors) -> Named:
    d, p, c = a.width, a.patch_size, config.in_chans
    if config.embed_proj_type == "conv" or not config.patchify_channels_last:
        shape = (d, c, p, p) if config.embed_proj_type == "conv" else (d, p * p * c)
        weight = tensors.take("embeds.proj.weight", *shape).view(d, c, p, p).permute(0, 2, 3, 1).flatten(1)
    else:
        weight = tensors.take("embeds.proj.weight", d, p * p * c)
    yield "embed.weight", with_three_channels(weight.contiguous(), c)
    yield "embed.bias", torch.zeros(d) if config.pre_norm else tensors.take("embeds.proj.bias", d)
    if a.patch_norm:
        yield from tensors.norm("patch_norm", "embeds.norm", d).items()
    if a.positions is not None:
        rows, columns = a.positions.grid
        if a.positions.factorized:
            parts = (tensors.take("embeds.pos_embed_y", 1, rows, d), tensors.take("embeds.pos_embed_x", 1, columns, d))
            yield "positions.table", torch.cat(parts, dim=1)[0]
        else:
            yield "positions.table", tensors.take("embeds.pos_embed", 1, rows, columns, d).view(-1, d)
    if a.prefix:
        tokens = [torch.zeros(1, d)]
        if a.class_token:
            tokens.append(tensors.take("embeds.cls_token", 1, 1, d)[0])
        if a.registers:
            tokens.append(tensors.take("embeds.reg_token", 1, a.registers, d)[0])
        yield "prefix.table", torch.cat(tokens)


def _attention(config: TimmConfig, a: Architecture, tensors: Tensors, i: int) -> Named:
    d, ours, theirs = a.width, f"blocks.{i}", f"blocks.{i}.attn"
    order = torch.arange(a.head_width)
    if config.rope and not config.rope_rotate_half and config.rope != "mrope":
        order = torch.cat([order[::2], order[1::2]])
    projections = _stacked(config, a, tensors, theirs) if _is_fused(config) else _split(config, a, tensors, i)
    for name, (weight, bias) in zip(("query", "key", "value"), projections, strict=True):
        repeats = a.heads // (len(weight) // a.head_width)
        channels = order if name != "value" else torch.arange(a.head_width)
        for kind, values in (("weight", weight), ("bias", bias)):
            heads = values.view(-1, a.head_width, *values.shape[1:])[:, channels]
            yield f"{ours}.{name}.{kind}", heads.repeat_interleave(repeats, 0).flatten(0, 1).contiguous()
    if a.qk_norm:
        for our_norm, their_norm in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            for name, values in tensors.norm(f"{ours}.{our_norm}", f"{theirs}.{their_norm}", a.head_width).items():
                yield name, values[order]
    if a.attention_norm:
        yield from tensors.norm(f"{ours}.attention_norm", f"{theirs}.norm", d).items()
    if a.attention_gate:
        yield from tensors.linear(f"{ours}.gate", f"{theirs}.gate", d, d, bias=config.qkv_bias).items()
    out = tensors.linear(f"{ours}.out", f"{theirs}.proj", d, d, bias=config.proj_bias or config.eva_block)
    yield from _scaled(out, config, tensors, i, branch=1)


def _is_fused(config: TimmConfig) -> bool:
    return config.qkv_fused or not config.eva_block


def _stacked(config: TimmConfig, a: Architecture, tensors: Tensors, theirs: str) -> list[tuple[Tensor, Tensor]]:
    d = a.width
    weights = tensors.take(f"{theirs}.qkv.weight", 3 * d, d).chunk(3)
    if not config.qkv_bias:
        biases: tuple[Tensor, ...] = (torch.zeros(d),) * 3
    elif config.eva_block and not config.rope_attention:
        biases = (tensors.take(f"{theirs}.q_bias", d), torch.zeros(d), tensors.take(f"{theirs}.v_bias", d))
    else:
        biases = tensors.take(f"{theirs}.qkv.bias", 3 * d).chunk(3)
    return list(zip(weights, biases, strict=True))


def _split(config: TimmConfig, a: Architecture, tensors: Tensors, i: int) -> list[tuple[Tensor, Tensor]]:
    shared = config.kv_heads(i) * a.head_width
    projections = []
    for name, outputs in (("q_proj", a.width), ("k_proj", shared), ("v_proj", shared)):
        bias = config.qkv_bias and (config.rope_attention or name != "k_proj")
        layer = tensors.linear(name, f"blocks.{i}.attn.{name}", outputs, a.width, bias=bias)
        projections.append((layer[f"{name}.weight"], layer[f"{name}.bias"]))
    return projections


def _mlp(config: TimmConfig, a: Architecture, tensors: Tensors, i: int) -> Named:
    d, h, ours, theirs = a.width, a.mlp_width, f"blocks.{i}.mlp", f"blocks.{i}.mlp"
    bias = config.proj_bias or config.eva_block
    if not a.gated_mlp:
        yield from tensors.linear(f"{ours}.fc1", f"{theirs}.fc1", h, d, bias=bias).items()
    elif config.scale_mlp_norm or config.swiglu_align_to:
        yield from tensors.linear(f"{ours}.gate", f"{theirs}.fc1_g", h, d).items()
        yield from tensors.linear(f"{ours}.fc1", f"{theirs}.fc1_x", h, d).items()
    else:
        for kind, values in tensors.linear("", f"{theirs}.fc1", 2 * h, d).items():
            gate, up = values.chunk(2)
            yield f"{ours}.gate{kind}", gate.contiguous()
            yield f"{ours}.fc1{kind}", up.contiguous()
    if a.mlp_norm:
        yield from tensors.norm(f"{ours}.norm", f"{theirs}.norm", h).items()
    yield from _scaled(tensors.linear(f"{ours}.fc2", f"{theirs}.fc2", d, h, bias=bias), config, tensors, i, branch=2)


def _scaled(layer: dict[str, Tensor], config: TimmConfig, tensors: Tensors, i: int, branch: int) -> Named:
    """A branch's last projection with its LayerScale: γ·(W·x + b) = (γW)·x + γb."""
    if config.eva_block:
        present = config.init_values is not None and not (branch == 2 and config.attn_only_layer_scale)
        name = f"blocks.{i}.gamma_{branch}"
    else:
        present = bool(config.init_values)
        name = f"blocks.{i}.ls{branch}.gamma"
    if not present:
        yield from layer.items()
        return
    gamma = tensors.take(name, len(next(iter(layer.values()))))
    for ours, values in layer.items():
        yield ours, gamma.view(-1, *[1] * (values.ndim - 1)) * values


def _map_pool(a: Architecture, tensors: Tensors) -> Named:
    d, hidden = a.width, a.pool_mlp_width or a.mlp_width
    yield "pool.probe", tensors.take("attn_pool.latent", 1, 1, d)[0]
    yield from tensors.linear("pool.query", "attn_pool.q", d, d).items()
    for kind, values in tensors.linear("", "attn_pool.kv", 2 * d, d).items():
        key, value = values.chunk(2)
        yield f"pool.key{kind}", key.contiguous()
        yield f"pool.value{kind}", value.contiguous()
    yield from tensors.linear("pool.out", "attn_pool.proj", d, d).items()
    yield from tensors.norm("pool.norm", "attn_pool.norm", d).items()
    yield from tensors.linear("pool.mlp.fc1", "attn_pool.mlp.fc1", hidden, d).items()
    yield from tensors.linear("pool.mlp.fc2", "attn_pool.mlp.fc2", d, hidden).items()
