"""Compares every kind of checkpoint with its original implementation, and writes docs/checkpoints.md.

    python -m benchmarks.accuracy.checkpoint_table [-o docs/checkpoints.md]

Needs the `dev` extra: the comparison runs transformers' and timm's own classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tests.support.imports  # noqa: F401  makes timm importable beside any torch

# isort: split
import numpy as np
import onnxruntime
import timm
import torch
import transformers
from torch import nn
from transformers import Siglip2ForImageClassification, Siglip2Model, Siglip2VisionModel

from benchmarks.accuracy import checkpoint_directories
from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.families.registry import FAMILIES, OTHERS
from naflex_deploy.compiler.checkpoints.random_weights import SHAPES
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES
from naflex_deploy.compiler.checkpoints.timm.config import ALLOWED
from naflex_deploy.compiler.export import OPSET
from naflex_deploy.compiler.model.architecture import Positions
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.compiler.model.packed_vit import position_table
from naflex_deploy.compiler.model.positions.learned import CoordinateMlp
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.core.pack import Pack, Role
from tests.support import naflexvit, siglip2, vlms
from tests.support.flax import flax_arrays
from tests.support.packs import GRIDS, Recording, Results, assert_parity, random_images, run
from tests.support.positions import coordinate_mlp, filled, learned_softmax, place_all

IMAGES = random_images(GRIDS, 8)
TRANSFORMERS, TIMM = f"transformers {transformers.__version__}", f"timm {timm.__version__}"
PROJECTION = "for scale: the patch projection"
POSITIONS: dict[str, nn.Module] = {
    "16x16 bilinear, antialias": position_table(Positions((16, 16)), 768),
    "16x16 bicubic, antialias": position_table(Positions((16, 16), "bicubic"), 768),
    "16x16 bilinear, four entries": position_table(Positions((16, 16), antialias=False), 768),
    "128x128 bilinear, four entries": position_table(Positions((128, 128), antialias=False, square=True), 768),
    "16 + 16 factorized": position_table(Positions((16, 16), antialias=False, factorized=True), 768),
    "16x16 learned_softmax": position_table(Positions((16, 16), "learned_softmax"), 768),
    "16x16 learned_softmax, aligned corners": position_table(
        Positions((16, 16), "learned_softmax", align_corners=True), 768
    ),
    "coordinate_mlp of 64": CoordinateMlp(64, 768),
    PROJECTION: nn.Linear(768, 768),
}
TEXT = """# Checkpoints

`python -m benchmarks.accuracy.checkpoint_table` writes this page; do not edit it.

| SPEC | What is read |
|---|---|
| `demo` | the model that ships with the package |
| a directory | the output of transformers' `save_pretrained` or timm's `save_for_hf`; safetensors only |
| a directory of a vision-language model | its image tower, see below |
| `hf:ORG/NAME[@REVISION]` | the same, downloaded from the hub |
| `timm:NAME:FILE.safetensors` | a registered `naflexvit_*` architecture with its weights |
| `timm:FILE.safetensors` | weights with timm's `config.json` beside them |
| `bv:FILE.npz[:POOLING]` | big_vision; pooling map, gap, max or none; default: map if the file has it, else gap |
| `random:NAME` | seeded random weights: {shapes}, any registered timm name |
| a torch module | transformers' `Siglip2…`, timm's `NaFlexVit`, or a `PackedNaFlexViT` |

A checkpoint is refused, with the name and value of the cause, if an option has no counterpart, a tensor is missing,
left over or of another shape, a file is a pickle or holds Python objects, or a position table is larger than 128x128.

A directory may hold more weights than those of the model, such as averaged copies and backups. The files are chosen as
transformers and timm choose them: the one that `config.json` names, else `model.safetensors`, else the shards of its
index, else the only safetensors file. `naflex-deploy inspect` lists the files that were left out, and the origin of
each setting of the preprocessing.

## Vision-language models

The directory of a whole model gives its image tower and the projector to its language model; only the shards that hold
these are opened or downloaded. Outputs `vlm` and `deepstack:K` are the tokens that the language model takes. Of a model
for embeddings with such a tower, these are the tower's tokens, not the final vectors.

{families}

Other towers are refused by name:

{others}

## Options of timm that are limited

Every other option of `NaFlexVitCfg` is supported at any value that timm accepts. Two combinations are refused: tables
that are not square with `pos_embed_ar_preserving`, and a classifier or `fc_norm` without pooling. Patches are square.
With one channel (`in_chans` of timm, `num_channels` of transformers), every image is made grey before it is resized.

{limits}

## Positions that no published checkpoint has

`learned_softmax`, `coordinate_mlp` and `align_corners` are options of `naflex_deploy.compiler.model.architecture`;
their formulas are in `learned.py` and `gather.py` of `naflex_deploy/compiler/model/positions/`. They can be trained:
build a `PackedNaFlexViT`, train it with `ragged_attention`, and pass the module to `build`. `fit = "pad-to-patch"` in a
profile rounds grids up to whole patches.

## Measured: the largest difference from the original

Narrow models (width 96, 2 or 3 blocks, patch 8) with seeded weights and the same pixels; the original runs in float64,
ours in float32. One pack of images of {grids} patches.
σ is the smallest standard deviation of the attention logits of any block or head; small logits would hide errors.
error = max |Δ| / max |original| over pooled, tokens and logits. Towers in vision-language models are read from the
directory of the whole model, with images of {vlm_grids} patches of 14 or 16 pixels; their error is that of `tokens`,
`vlm` and `deepstack:K`.

{errors}

{where}

## Measured: directories as people save them

Each is read and compared with the library that wrote it, or refused: pooled, tokens and logits on the same pixels,
pixels as the image processor gives them, scores, or text vectors. error = max |Δ| / max |original|.

{directories}

## Measured: what positions cost

Embeddings of four images of 16x16 patches in a pack, width 768, one thread: median CPU time of {repeats} interleaved
runs, and its quartiles. The graph is the portable one, before any pass. The last row is for scale: a block of a ViT-B
has twelve such products and its attention.

{costs}

Executed on {threads}.
"""
REPEATS = 60


@dataclass(frozen=True)
class Row:
    """One row of the table of errors."""

    family: str
    option: str
    against: str
    error: float
    sigma: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/checkpoints.md"))
    output: Path = parser.parse_args().output
    rows = [*siglip2_rows(), *vlm_rows(), *timm_rows(), *big_vision_rows(), *own_rows()]
    errors = table(
        ("family", "option", "compared with", "error", "σ"),
        [(r.family, r.option, r.against, f"{r.error:.1e}", f"{r.sigma:.1f}" if r.sigma else "") for r in rows],
    )
    limits = table(
        ("option", "supported"),
        [(f"`{name}`", ", ".join(f"`{value!r}`" for value in values)) for name, values in ALLOWED.items()],
    )
    text = TEXT.format(
        limits=limits,
        shapes=", ".join(f"`{name}`" for name in SHAPES),
        families=table(("family", "`model_type`"), list(family_rows())),
        others=table(("`model_type`", "why"), [(f"`{kind}`", why) for kind, why in OTHERS.items()]),
        grids=", ".join(f"{h}x{w}" for h, w in GRIDS),
        vlm_grids=", ".join(f"{h}x{w}" for h, w in vlms.GRIDS),
        errors=errors,
        directories=checkpoint_directories.section(),
        where=f"Executed on {cpu_name()} with torch {torch.__version__}.",
        threads=f"{cpu_name()}, one thread, onnxruntime {onnxruntime.__version__}",
        repeats=REPEATS,
        costs=table(("positions", "ms", "quartiles"), list(position_costs())),
    )
    output.parent.mkdir(exist_ok=True)
    partial = output.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(output)


def compare(checkpoint: Checkpoint, golden: Results) -> tuple[float, float]:
    """The largest error, and the smallest σ of the attention logits."""
    recording = Recording(ragged_attention)
    outputs = [name for name in ("pooled", "tokens", "logits") if name in checkpoint.architecture.outputs]
    error = assert_parity(run(checkpoint.model(outputs, recording), IMAGES), golden, tolerance=float("inf"))
    return error, min(recording.sigmas)


def siglip2_rows() -> Iterator[Row]:
    for kind in (Siglip2VisionModel, Siglip2Model, Siglip2ForImageClassification):
        original = siglip2.small(kind)
        yield Row("SigLIP2", kind.__name__, TRANSFORMERS, *compare(read(original), siglip2.golden(original, IMAGES)))


def vlm_rows() -> Iterator[Row]:
    for name, vlm in vlms.VLMS.items():
        with tempfile.TemporaryDirectory() as folder:
            directory = vlm.save(Path(folder) / "model")
            images = random_images(vlms.GRIDS, vlm.patch_size)
            theirs = vlms.expected(vlm, vlm.load(directory), images)
            recording = Recording(ragged_attention)
            ours = vlms.outputs_of(read(directory).model(tuple(theirs), recording), images)
        errors = [float((ours[key] - values).abs().max() / values.abs().max()) for key, values in theirs.items()]
        yield Row("tower of", name, TRANSFORMERS, max(errors), min(recording.sigmas))


def family_rows() -> Iterator[tuple[str, str]]:
    for family in FAMILIES:
        yield family.title, ", ".join(f"`{kind}`" for kind in family.model_types)


def timm_rows() -> Iterator[Row]:
    def row(family: str, option: str, original: nn.Module) -> Row:
        return Row(family, option, TIMM, *compare(read(original), naflexvit.golden(original, IMAGES)))

    for name in ARCHITECTURES:
        yield row("timm, registered", name, naflexvit.named(name))
    for option, values in naflexvit.OPTIONS.items():
        yield row("timm, options", option, naflexvit.configured(classes=3, **values))


def big_vision_rows() -> Iterator[Row]:
    original = siglip2.small(Siglip2VisionModel)
    golden = siglip2.golden(original, IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        for option, stacked in (("separate blocks, map", False), ("stacked blocks, map", True)):
            path = Path(folder) / "model.npz"
            np.savez(path, **flax_arrays(original, stacked=stacked))
            yield Row("big_vision", option, f"{TRANSFORMERS}, same weights", *compare(read(f"bv:{path}"), golden))


def own_rows() -> Iterator[Row]:
    def row(option: str, layer: nn.Module, formula: Callable[[nn.Module, tuple[int, int]], np.ndarray]) -> Row:
        worst = 0.0
        for grid in GRIDS:
            expected = formula(layer, grid)
            with torch.no_grad():
                found = layer(*place_all(grid)).numpy()
            worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
        return Row("own", option, "the formula in numpy, float64", worst)

    yield row("learned_softmax", filled(Positions((16, 16), "learned_softmax")), learned_softmax)
    aligned = Positions((16, 16), "learned_softmax", align_corners=True)
    yield row("learned_softmax, aligned corners", filled(aligned), learned_softmax)
    torch.manual_seed(0)
    yield row("coordinate_mlp", CoordinateMlp(64, 96), coordinate_mlp)


def position_costs() -> Iterator[tuple[str, str, str]]:
    """Time every kind of positions in turns, by the CPU time of the thread."""
    pack = Pack.of(random_images([(16, 16)] * 4, 16))
    grid = pack.grid_hw[pack.view(Role.SEGMENT_IDS)]
    feeds = {"coords": pack.view(Role.COORDS), "token_grid": grid}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, module in POSITIONS.items():
            path = Path(folder) / "positions.onnx"
            inputs = feeds if name != PROJECTION else {"patches": np.zeros((pack.tokens, 768), np.float32)}
            arguments = tuple(torch.from_numpy(value) for value in inputs.values())
            torch.onnx.export(
                module.eval(), arguments, str(path), input_names=list(inputs), opset_version=OPSET, verbose=False
            )
            sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), inputs
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(REPEATS):
        for name, (session, inputs) in sessions.items():
            started = time.thread_time()
            session.run(None, inputs)
            seconds[name].append(time.thread_time() - started)
    for name, values in seconds.items():
        low, middle, high = np.percentile(1e3 * np.array(values), [25, 50, 75])
        yield name, f"{middle:.2f}", f"{low:.2f} … {high:.2f}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
