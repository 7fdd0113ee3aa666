"""Every contender by name. Each is made in a process of its own, see `turns`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.peers import towers
from benchmarks.peers.engines import Contender, Graphs, openvino, ours

REFERENCE = "transformers eager fp32, padded"

Maker = Callable[[Graphs], Contender]

OTHERS = (
    "transformers sdpa fp32, padded",
    "transformers sdpa fp32, one by one",
    "transformers sdpa bf16, padded",
    "transformers sdpa bf16, one by one",
    "timm fp32, padded",
    "timm fp32, one by one",
    "naive ONNX export fp32, padded",
)
COMPILED = ("torch.compile fp32, padded", "torch.compile bf16, padded")

OURS = {"onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
"""Precisions of this project's engine by backend."""


def lineup(size: str, threads: int, *, with_compile: bool = False) -> dict[str, Maker]:
    """How each contender is made, by name.

    Args:
        size: Of the model, a name in `contenders.SIZES`.
        threads: That each may use.
        with_compile: Also torch.compile, which takes minutes.
    """
    if towers.is_tower(size):
        return towers.lineup(size, threads)
    found: dict[str, Maker] = {
        name: partial(_torch, name=name, size=size, threads=threads)
        for name in (REFERENCE, *OTHERS, *(COMPILED if with_compile else ()))
    }
    for precision in ("fp32", "bf16", "int8"):
        for layout, streams in {"one by one": 1, "a stream a core": threads}.items():
            name = f"OpenVINO {precision}, {layout}"
            found.setdefault(name, partial(openvino, threads=threads, precision=precision, streams=streams))
    for backend, precisions in OURS.items():
        for precision in precisions:
            for layout in ("one by one", "packed", "side by side"):
                name = f"naflex-deploy {precision} in {backend}, {layout}"
                found[name] = partial(ours, threads=threads, layout=layout, precision=precision, backend=backend)
    alone = ("a stream a core", "side by side")
    return {name: make for name, make in found.items() if threads > 1 or not name.endswith(alone)}


def _torch(graphs: Graphs, name: str, size: str, threads: int) -> Contender:
    """A contender that needs torch, by the words of its name."""
    import torch

    from benchmarks.peers import contenders
    from benchmarks.peers.timm_contender import timm_model

    torch.set_num_threads(threads)
    source = contenders.model(size)
    if name.startswith("naive"):
        return contenders.naive(source, threads)
    one_by_one = name.endswith("one by one")
    if name.startswith("timm"):
        return timm_model(source, one_by_one=one_by_one)
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    attention = "eager" if "eager" in name else "sdpa"
    compiled = name.startswith("torch.compile")
    return contenders.hf(source, attention, dtype, one_by_one=one_by_one, compiled=compiled)


def chosen_variants(names: list[str]) -> list[tuple[str, str]]:
    """Backend and precision of each variant of this project that contenders of these names run."""
    return [
        (backend, precision)
        for backend, precisions in OURS.items()
        for precision in precisions
        if any(name.startswith(f"naflex-deploy {precision} in {backend}") for name in names)
    ]
