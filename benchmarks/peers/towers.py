"""Image towers of vision-language models: this project's engine beside the class of transformers.

That class attends image by image, too, so its batch is one sequence and not padded. All return the tokens of every
image as the language model takes them, with those of the taps beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.engines import Contender, Graphs, Images, Pooled, ours
from benchmarks.peers.mixes import Mix

OURS = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
OTHERS = tuple(
    f"transformers sdpa {precision}, {layout}"
    for precision in ("fp32", "bf16")
    for layout in ("one by one", "one sequence")
)
REFERENCE = OTHERS[0]
MERGE = 2


@dataclass(frozen=True)
class Tower:
    """The true shape of a tower.

    Attributes:
        vlm: Name in `tests.support.vlms`, of which everything else is taken.
        vision, text: Options that differ.
        depth: Name of the option that is the number of blocks.
        patch_values: Of a patch of one frame.
        taps: Where the language model takes hidden states, as shares of the depth.
        rest: Options of the whole model that differ.
    """

    vlm: str
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    depth: str
    patch_values: int
    taps: tuple[float, ...] = ()
    rest: Mapping[str, Any] = field(default_factory=dict)


TOWERS = {
    "qwen3-vl-4b": Tower(
        "Qwen3VL",
        {
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "num_position_embeddings": 48 * 48,
            "out_hidden_size": 2560,
        },
        {},
        "depth",
        16 * 16 * 3,
        (5 / 24, 11 / 24, 17 / 24),
    ),
    "kimi-k2.5": Tower(
        "Kimi_K25",
        {
            "num_hidden_layers": 27,
            "hidden_size": 1152,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
            "pos_emb_height": 64,
            "pos_emb_width": 64,
        },
        {"hidden_size": 7168},
        "num_hidden_layers",
        14 * 14 * 3,
        rest={"projection_hidden_size": 1152},
    ),
}


def is_tower(size: str) -> bool:
    """Whether a size names a tower: ``NAME``, ``NAME:DEPTH`` with fewer blocks, or ``NAME:small``."""
    return size.partition(":")[0] in TOWERS


def lineup(size: str, threads: int) -> dict[str, Callable[[Graphs], Contender]]:
    """How each contender is made, by name."""
    found: dict[str, Callable[[Graphs], Contender]] = {
        name: partial(_theirs, name=name, size=size, threads=threads) for name in OTHERS
    }
    for backend, precisions in OURS.items():
        for precision in precisions:
            for layout in ("one by one", "packed", *(("side by side",) if threads > 1 else ())):
                name = f"naflex-deploy {precision} in {backend}, {layout}"
                found[name] = partial(ours, threads=threads, layout=layout, precision=precision, backend=backend)
    return found


def in_blocks(mix: Mix) -> Mix:
    """The same images with sides that divide into blocks of 2x2 patches."""
    return replace(mix, grids=tuple((h + h % MERGE, w + w % MERGE) for h, w in mix.grids))


def shape(size: str) -> dict[str, int]:
    """What the arithmetic follows from: see `work`."""
    vlm, vision, text = _options(size)
    merged = {**vlm.config["vision_config"], **vision}
    joined = merged["hidden_size"] * MERGE**2
    out = merged.get("out_hidden_size", {**vlm.config["text_config"], **text}["hidden_size"])
    projectors = 1 + len(merged.get("deepstack_visual_indexes", ()))
    return {
        "width": merged["hidden_size"],
        "mlp_width": merged["intermediate_size"],
        "depth": merged[TOWERS[size.partition(":")[0]].depth],
        "patch_values": TOWERS[size.partition(":")[0]].patch_values,
        "projector": projectors * joined * (joined + out) // MERGE**2,
    }


def export_graph(size: str, graphs: Graphs) -> None:
    """Save a whole model with a tiny language model, and export the tower read from it."""
    from naflex_deploy.compiler.checkpoints import read
    from naflex_deploy.compiler.export import export
    from naflex_deploy.core.pack import in_blocks as projected

    vlm, vision, text = _options(size)
    rest = TOWERS[size.partition(":")[0]].rest if vision else {}
    config = {**vlm.config, **rest, "text_config": {**vlm.config["text_config"], **text}}
    directory = replace(vlm, config=config).save(_directory(graphs), **vision)
    checkpoint = read(directory)
    outputs = [name for name in checkpoint.architecture.outputs if projected(name)]
    export(checkpoint.model(outputs), graphs.portable)


def _options(size: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    from tests.support.vlms import VLMS

    name, _, depth = size.partition(":")
    tower = TOWERS[name]
    vlm = VLMS[tower.vlm]
    if depth == "small":
        return vlm, {}, {}
    vision = dict(tower.vision)
    if depth:
        vision[tower.depth] = int(depth)
    if tower.taps:
        vision["deepstack_visual_indexes"] = [int(share * vision[tower.depth]) for share in tower.taps]
    return vlm, vision, dict(tower.text)


def _directory(graphs: Graphs) -> Path:
    return graphs.folder / "checkpoint"


def _theirs(graphs: Graphs, name: str, size: str, threads: int) -> Contender:
    """The class of transformers, fed with pixels in its order and type."""
    import torch

    import tests.support.imports  # noqa: F401  makes transformers importable beside any build of torch

    import transformers  # isort: skip

    from tests.support.vlms import LAYOUTS, block_order

    torch.set_num_threads(threads)
    vlm, _, _ = _options(size)
    precision = "bf16" if "bf16" in name else "fp32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = getattr(transformers, vlm.kind).from_pretrained(_directory(graphs), dtype=dtype, attn_implementation="sdpa")
    model.eval()

    def inputs(images: Images) -> dict[str, Any]:
        rows = []
        for image in images:
            h, w = image.grid_hw
            order = block_order(h, w) if vlm.in_blocks else torch.arange(h * w)
            pixels = torch.from_numpy(image.pixels).float() / 127.5 - 1
            rows.append(LAYOUTS[vlm.layout](pixels[order], vlm.patch_size))
        grids = torch.tensor([(1, *image.grid_hw) for image in images])
        return {"pixel_values": torch.cat(rows).to(dtype), "image_grid_thw": grids}

    def bind(images: Images) -> Callable[[], Pooled]:
        parts: Sequence[Images] = [[image] for image in images] if name.endswith("one by one") else [images]
        batches = [inputs(part) for part in parts]

        def call() -> Pooled:
            with torch.inference_mode():
                found = [model.model.get_image_features(**batch) for batch in batches]
                rows = [[part.pooler_output, *(getattr(part, "deepstack_features", None) or ())] for part in found]
            return np.concatenate([torch.cat([*map(torch.cat, every)], dim=1).float().numpy() for every in rows])

        return call

    return Contender(precision, False, bind)
