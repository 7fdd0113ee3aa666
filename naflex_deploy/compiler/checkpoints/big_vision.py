"""big_vision's NaFlex ViT: an ``.npz`` of Flax parameters.

Flax keeps dense kernels as [in, out] and attention's as [D, heads, d] or [heads, d, D]; blocks trained under ``scan``
are stacked on a leading axis. The file names no option: width, depth, heads and heads on top follow from the shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.tensors import Tensors
from naflex_deploy.compiler.model.architecture import Architecture, Pooling, Positions
from naflex_deploy.core.errors import CheckpointError, NoCheckpointError, nearest
from naflex_deploy.core.preprocessing import Preprocessing

POOLINGS: dict[str, Pooling] = {"map": "map", "gap": "mean", "max": "max", "none": "none"}
ROOTS = ("params/img/", "img/", "params/", "")
BLOCK, STACK = "Transformer/encoderblock_{}", "Transformer/encoderblock/"
HEAD = "MAPHead_0"

Named = Iterator[tuple[str, Tensor]]


def read_big_vision(rest: str) -> Checkpoint:
    """Read ``FILE.npz[:POOLING]``, the image tower of a two-tower model or an image model alone.

    Args:
        rest: POOLING is map, gap, max or none. Without it: map where the file has that head, gap where not.

    Raises:
        CheckpointError: No such file, not an npz of arrays, or another architecture.
    """
    name, _, pooling = rest.partition(":")
    source = f"bv:{rest}"
    if pooling and pooling not in POOLINGS:
        raise CheckpointError(f"{source}: unknown pooling '{pooling}'", hint=nearest(pooling, POOLINGS))
    arrays = _load(Path(name), source)
    root = next((root for root in ROOTS if f"{root}embedding/kernel" in arrays), None)
    if root is None:
        raise CheckpointError(
            f"{source}: expected an array '…/embedding/kernel', found none", hint="it is no big_vision image model"
        )
    arrays = {key.removeprefix(root): array for key, array in arrays.items() if key.startswith(root)}
    tensors = Tensors(_unstacked(arrays), source)
    if "patchln_pre/scale" in arrays:
        raise CheckpointError(f"{source}: patchln_pre = True is not supported", hint="patchln_post is")
    chosen = pooling or ("map" if f"{HEAD}/probe" in arrays else "gap")
    architecture = _architecture(tensors, POOLINGS[chosen], source)
    weights = dict(_weights(architecture, tensors))
    tensors.finish()
    return Checkpoint(
        source, architecture, weights, Preprocessing(patch_size=architecture.patch_size, search="float32")
    )


def _load(path: Path, source: str) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: _tensor(file, key, source) for key in file.files}
    except FileNotFoundError:
        raise NoCheckpointError(f"{source}: no file at '{path}'", hint="bv:FILE.npz") from None
    except (OSError, BadZipFile, AttributeError, ValueError) as error:
        raise CheckpointError(f"{source}: no readable npz: {error}", hint="save or download it again") from None


def _tensor(file: np.lib.npyio.NpzFile, key: str, source: str) -> Tensor:
    try:
        array = file[key]
    except ValueError:
        raise CheckpointError(
            f"{source}: array '{key}' holds Python objects, which can run code when read",
            hint="load it where you trust it and save plain arrays",
        ) from None
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "fiu":
        raise CheckpointError(f"{source}: array '{key}' has dtype {array.dtype}, expected numbers")
    return torch.from_numpy(np.ascontiguousarray(array))


def _unstacked(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks stacked over layers under the names of separate ones."""
    single = {}
    for key, array in arrays.items():
        if not key.startswith(STACK):
            single[key] = array
            continue
        for layer, values in enumerate(array):
            single[f"{BLOCK.format(layer)}/{key.removeprefix(STACK)}"] = values
    return single


def _architecture(tensors: Tensors, pooling: Pooling, source: str) -> Architecture:
    kernel = tensors.shape("embedding/kernel")
    side = isqrt(kernel[0] // 3) if len(kernel) == 2 else 0
    if len(kernel) != 2 or kernel[0] != 3 * side * side:
        raise CheckpointError(
            f"{source}: 'embedding/kernel': expected shape [P·P·3, D], found {list(kernel)}",
            hint="a ViT of fixed resolution has a convolution there; use a NaFlex checkpoint",
        )
    table = tensors.shape("pos_embedding")
    if len(table) != 3 or table[2] != kernel[1] or table[0] == 1:
        raise CheckpointError(
            f"{source}: 'pos_embedding': expected shape [rows, columns, {kernel[1]}], found {list(table)}",
            hint="a ViT of fixed resolution has a flat table; use a NaFlex checkpoint",
        )
    depth = 0
    while f"{BLOCK.format(depth)}/LayerNorm_0/scale" in tensors:
        depth += 1
    query = tensors.shape(f"{BLOCK.format(0)}/MultiHeadDotProductAttention_0/query/kernel")
    hidden = tensors.shape(f"{BLOCK.format(0)}/MlpBlock_0/Dense_0/kernel")
    if len(query) != 3 or len(hidden) != 2:
        raise CheckpointError(f"{source}: no transformer blocks under 'Transformer/encoderblock'")
    pool_query = tensors.shape(f"{HEAD}/MultiHeadDotProductAttention_0/query/kernel")
    pool_hidden = tensors.shape(f"{HEAD}/MlpBlock_0/Dense_0/kernel")
    representation, classes = tensors.shape("pre_logits/kernel"), tensors.shape("head/kernel")
    if pooling == "none" and (representation or classes):
        raise CheckpointError(f"{source}: a head with pooling 'none' is not supported", hint="map, gap and max are")
    return Architecture(
        width=kernel[1],
        depth=depth,
        heads=query[1],
        mlp_width=hidden[1],
        patch_size=side,
        positions=Positions((table[0], table[1])),
        pooling=pooling,
        pool_heads=pool_query[1] if len(pool_query) == 3 else None,
        pool_mlp_width=pool_hidden[1] if len(pool_hidden) == 2 else None,
        patch_norm="patchln_post/scale" in tensors,
        representation=representation[1] if len(representation) == 2 else 0,
        classes=classes[1] if len(classes) == 2 else 0,
    )


def _weights(a: Architecture, tensors: Tensors) -> Named:
    """(our name, tensor) for everything the packed model needs."""
    yield from _dense(tensors, "embed", "embedding", a.patch_values, a.width)
    if a.positions is not None:
        yield "positions.table", tensors.take("pos_embedding", *a.positions.grid, a.width).flatten(0, 1)
    if a.patch_norm:
        yield from _norm(tensors, "patch_norm", "patchln_post", a.width)
    for i in range(a.depth):
        ours, theirs = f"blocks.{i}", BLOCK.format(i)
        yield from _norm(tensors, f"{ours}.norm1", f"{theirs}/LayerNorm_0", a.width)
        yield from _attention(tensors, ours, f"{theirs}/MultiHeadDotProductAttention_0", a.width, a.heads)
        yield from _norm(tensors, f"{ours}.norm2", f"{theirs}/LayerNorm_1", a.width)
        yield from _mlp(tensors, f"{ours}.mlp", f"{theirs}/MlpBlock_0", a.width, a.mlp_width)
    yield from _norm(tensors, "norm", "Transformer/encoder_norm", a.width)
    if a.pooling == "map":
        yield "pool.probe", tensors.take(f"{HEAD}/probe", 1, 1, a.width)[0]
        attention = f"{HEAD}/MultiHeadDotProductAttention_0"
        yield from _attention(tensors, "pool", attention, a.width, a.pool_heads or a.heads)
        yield from _norm(tensors, "pool.norm", f"{HEAD}/LayerNorm_0", a.width)
        yield from _mlp(tensors, "pool.mlp", f"{HEAD}/MlpBlock_0", a.width, a.pool_mlp_width or a.mlp_width)
    if a.representation:
        yield from _dense(tensors, "representation", "pre_logits", a.width, a.representation)
    if a.classes:
        yield from _dense(tensors, "classifier", "head", a.pooled_width, a.classes)


def _dense(tensors: Tensors, ours: str, theirs: str, inputs: int, outputs: int) -> Named:
    yield f"{ours}.weight", tensors.take(f"{theirs}/kernel", inputs, outputs).T.contiguous()
    yield f"{ours}.bias", tensors.take(f"{theirs}/bias", outputs)


def _norm(tensors: Tensors, ours: str, theirs: str, width: int) -> Named:
    yield f"{ours}.weight", tensors.take(f"{theirs}/scale", width)
    yield f"{ours}.bias", tensors.take(f"{theirs}/bias", width)


def _mlp(tensors: Tensors, ours: str, theirs: str, width: int, hidden: int) -> Named:
    yield from _dense(tensors, f"{ours}.fc1", f"{theirs}/Dense_0", width, hidden)
    yield from _dense(tensors, f"{ours}.fc2", f"{theirs}/Dense_1", hidden, width)


def _attention(tensors: Tensors, ours: str, theirs: str, width: int, heads: int) -> Named:
    for name in ("query", "key", "value"):
        kernel = tensors.take(f"{theirs}/{name}/kernel", width, heads, width // heads)
        yield f"{ours}.{name}.weight", kernel.flatten(1).T.contiguous()
        yield f"{ours}.{name}.bias", tensors.take(f"{theirs}/{name}/bias", heads, width // heads).flatten()
    kernel = tensors.take(f"{theirs}/out/kernel", heads, width // heads, width)
    yield f"{ours}.out.weight", kernel.flatten(0, 1).T.contiguous()
    yield f"{ours}.out.bias", tensors.take(f"{theirs}/out/bias", width)
