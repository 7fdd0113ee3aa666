"""Reads the image tower of a vision-language model, and its projector, from the directory of the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.families.family import Family
from naflex_deploy.compiler.checkpoints.hf.processor import read_processor
from naflex_deploy.compiler.checkpoints.tensors import Tensors
from naflex_deploy.compiler.checkpoints.weights import load_weights
from naflex_deploy.compiler.model.architecture import Architecture

Named = Iterator[tuple[str, Tensor]]


def read_tower(
    family: Family, config: Mapping[str, Any], path: Path, source: str, lora: Path | None = None
) -> Checkpoint:
    """Read a tower. Files that hold none of its tensors are not opened.

    Raises:
        CheckpointError: A file is missing or damaged, an option or a tensor is not as expected; names it.
    """
    config = family.described(config)
    # An adapter changes weights anywhere in the model, all of which it must find.
    loaded = load_weights(path, source, lora, (lambda name: True) if lora else family.wants)
    stored = {name: tensor for name, tensor in loaded.items() if family.wants(name)}
    ours = family.translate(stored, source)
    names = {new: old for old, new in ours.items() if new}
    architecture = family.architecture(config, frozenset(names), source)
    tensors = Tensors(
        {new: stored[old] for new, old in names.items()}, source, lambda new: names.get(new) or family.stored(new)
    )
    weights = dict(_weights(architecture, tensors, family.paired_rope))
    tensors.finish()
    preprocessing, origins = read_processor(path, config, architecture.patch_size, architecture.channels, source)
    preprocessing = preprocessing.model_copy(update={"merge": architecture.merge})
    return Checkpoint(
        source,
        architecture,
        weights,
        preprocessing,
        origins=origins | {"merge": f"as {family.title} has it"},
        family=family.title,
        note=family.note,
        paired_embedding=_paired(architecture, stored, names),
    )


def _paired(a: Architecture, stored: Mapping[str, Tensor], names: Mapping[str, str]) -> Tensor | None:
    """The patch projection over two frames, [D, 2·P·P·C], where it is stored so."""
    kernel = stored[names["embed.weight"]]
    if kernel.ndim != 5 or kernel.shape[2] != 2:
        return None
    return kernel.float().permute(0, 2, 3, 4, 1).reshape(a.width, -1).contiguous()


def _weights(a: Architecture, tensors: Tensors, paired: bool) -> Named:
    """(name, tensor) for everything the packed model needs, from tensors under our names."""
    d = a.width
    yield from _embedding(a, tensors)
    if a.positions is not None:
        grid = a.positions.grid
        flat = tensors.shape("positions.table") == (a.table_entries, d)
        yield "positions.table", tensors.take("positions.table", *((a.table_entries,) if flat else grid), d).view(-1, d)
    for i in range(a.depth):
        block = f"blocks.{i}"
        yield from tensors.norm(f"{block}.norm1", f"{block}.norm1", d).items()
        for name, tensor in _attention(tensors, block, f"{block}.qkv.", d):
            rotated = paired and ".value." not in name
            yield name, _halved(tensor, a.heads) if rotated else tensor
        yield from tensors.linear(f"{block}.out", f"{block}.out", d, d).items()
        yield from tensors.norm(f"{block}.norm2", f"{block}.norm2", d).items()
        yield from tensors.linear(f"{block}.mlp.fc1", f"{block}.mlp.fc1", a.mlp_width, d).items()
        yield from tensors.linear(f"{block}.mlp.fc2", f"{block}.mlp.fc2", d, a.mlp_width).items()
    if a.final_norm == "tokens":
        yield from tensors.norm("norm", "norm", d).items()
    if a.pooling == "map":
        yield "pool.probe", tensors.take("pool.probe", 1, 1, d)[0]
        yield from _attention(tensors, "pool", "pool.qkv_", d)
        yield from tensors.linear("pool.out", "pool.out", d, d).items()
        yield from tensors.norm("pool.norm", "pool.norm", d).items()
        yield from tensors.linear("pool.mlp.fc1", "pool.mlp.fc1", a.mlp_width, d).items()
        yield from tensors.linear("pool.mlp.fc2", "pool.mlp.fc2", d, a.mlp_width).items()
    yield from _projectors(a, tensors)


def _embedding(a: Architecture, tensors: Tensors) -> Named:
    """The patch projection, stored as a matrix of pixels with channels innermost, or as a convolution over one frame or
    several. A still is its frame repeated, so the frames' weights add up."""
    d, p, c = a.width, a.patch_size, a.channels
    shape = tensors.shape("embed.weight")
    if len(shape) == 2:
        yield "embed.weight", tensors.take("embed.weight", d, a.patch_values)
    else:
        frames = shape[2:3] if len(shape) == 5 else ()
        kernel = tensors.take("embed.weight", d, c, *frames, p, p)
        still = kernel.double().sum(2).float() if frames else kernel
        yield "embed.weight", still.permute(0, 2, 3, 1).reshape(d, -1).contiguous()
    yield "embed.bias", tensors.take("embed.bias", d)


def _attention(tensors: Tensors, ours: str, stacked: str, d: int) -> Named:
    """Queries, keys and values, stored apart or stacked in this order."""
    parts = ("query", "key", "value")
    if f"{stacked}weight" not in tensors:
        for part in parts:
            yield from tensors.linear(f"{ours}.{part}", f"{ours}.{part}", d, d).items()
        return
    for kind, shape in (("weight", (3 * d, d)), ("bias", (3 * d,))):
        for part, tensor in zip(parts, tensors.take(f"{stacked}{kind}", *shape).chunk(3), strict=True):
            yield f"{ours}.{part}.{kind}", tensor.contiguous()


def _halved(rows: Tensor, heads: int) -> Tensor:
    """Rows of a projection from pairs (2c, 2c + 1), of column and row in turn, to pairs (c, c + d/2), rows first."""
    places = rows.view(heads, -1, 2, 2, *rows.shape[1:])  # head, frequency, column or row, part of the pair
    return places.flip(2).transpose(1, 3).reshape(rows.shape).contiguous()


def _projectors(a: Architecture, tensors: Tensors) -> Named:
    p = a.projector
    if p is None:
        return
    joined = a.width * p.merge**2
    for index in range(-1, len(p.taps)):
        name = "projector" if index < 0 else f"deepstack.{index}"
        hidden, norm = (p.hidden, p.norm) if index < 0 else (joined, "block")
        if norm != "none":
            yield from tensors.norm(f"{name}.norm", f"{name}.norm", joined if norm == "block" else a.width).items()
        yield from tensors.linear(f"{name}.fc1", f"{name}.fc1", hidden, joined, bias=p.bias).items()
        yield from tensors.linear(f"{name}.fc2", f"{name}.fc2", p.width, hidden, bias=p.bias).items()
