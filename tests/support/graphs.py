"""Portable graphs of small models, both as exported and as other tools rewrite them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import pytest

from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Projector, Rope
from naflex_deploy.core.pack import Pack, Role, on_grid
from tests.support.packs import random_images

GRIDS = ((3, 5), (1, 7), (9, 2), (16, 20))


def small(positions: Positions | None, **options: object) -> Architecture:
    return Architecture(32, 2, 2, 48, 4, positions, **options)  # type: ignore[arg-type]


FAMILIES = {
    "siglip2": small(Positions((16, 16)), classes=3),
    "aligned corners, class token": small(
        Positions((8, 8), "bicubic", align_corners=True, square=True), class_token=True, pooling="class"
    ),
    "large table by gather": small(
        Positions((24, 24), antialias=False, square=True), class_token=True, registers=2, pooling="class"
    ),
    "bicubic by gather": small(
        Positions((7, 9), "bicubic", antialias=False), registers=4, pooling="mean", final_norm="pooled"
    ),
    "factorized": small(Positions((8, 8), antialias=False, factorized=True), pooling="mean_max"),
    "learned softmax": small(Positions((8, 8), "learned_softmax", antialias=False), pooling="max", coordinate_mlp=8),
    "coordinate MLP": small(None, coordinate_mlp=8, pooling="mean", attention_norm=True),
    "rope, normed keys": small(Positions((8, 8)), rope=Rope("axial"), registers=1, qk_norm=True),
    "rope mixed, gates": small(None, rope=Rope("mixed"), gated_mlp=True, mlp_norm=True, attention_gate=True),
    "tokens alone, patch norm": small(Positions((8, 8)), patch_norm=True, pooling="none"),
    "Qwen3-VL": small(
        Positions((8, 8), antialias=False, align_corners=True),
        rope=Rope("axial"),
        pooling="mean",
        final_norm="none",
        projector=Projector(24, 40, merge=2, taps=(0,)),
    ),
    "Kimi K2.5": small(
        Positions((7, 9), "bicubic", antialias=False),
        rope=Rope("axial"),
        norm_eps=1e-5,
        pooling="mean",
        projector=Projector(24, 128, merge=2, norm_eps=1e-5),
    ),
    "PaddleOCR-VL": small(
        Positions((9, 9), antialias=False), rope=Rope("axial"), pooling="mean", projector=Projector(24, 128, merge=2)
    ),
    "VideoLLaMA3": small(None, rope=Rope("axial"), pooling="mean", projector=Projector(24, 24, norm="none")),
    "LFM2-VL, Cosmos3-Edge": small(
        Positions((8, 8)), pooling="mean", projector=Projector(24, 40, merge=2, norm="block")
    ),
    "Isaac": small(
        Positions((8, 8)),
        pooling="mean",
        projector=Projector(24, 512, merge=2, norm="none", activation="silu", bias=False),
    ),
    "Phi-4-reasoning-vision": small(
        Positions((8, 8)), pooling="mean", projector=Projector(24, 24, norm="none", source="tokens:-2")
    ),
    "GenLIP": small(None, rope=Rope("mrope", sections=(3, 3)), attention_gate=True, pooling="mean"),
}
SWEPT = (
    "Kimi K2.5",
    "PaddleOCR-VL",
    "VideoLLaMA3",
    "LFM2-VL, Cosmos3-Edge",
    "Isaac",
    "Phi-4-reasoning-vision",
    "GenLIP",
)
"""Those that differ from others only in what the others have too."""
CASES = [pytest.param(name, marks=pytest.mark.exhaustive) if name in SWEPT else name for name in FAMILIES]

_FOLDER = TemporaryDirectory(prefix="naflex-graphs-")


@cache
def portable(name: str) -> Path:
    """The exported graph of a family. Not to be changed."""
    architecture = FAMILIES[name]
    names = ("tokens", "pooled", "logits", "vlm", "deepstack:0")
    outputs = tuple(output for output in names if output in architecture.outputs)
    folder = Path(_FOLDER.name, name.replace(" ", "-"))
    folder.mkdir()
    path = folder / "portable.onnx"
    export(random_checkpoint(architecture).model(outputs), path)
    return path


def renamed(source: Path, folder: Path) -> Path:
    """Every tensor but inputs and outputs, and every node, under another name; weights inside the file."""
    graph = onnx.load(str(source))
    kept = {value.name for value in (*graph.graph.input, *graph.graph.output)}
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"t{len(names)}")

    for number, node in enumerate(graph.graph.node):
        node.name = f"n{number}"
        node.input[:], node.output[:] = [new(name) for name in node.input], [new(name) for name in node.output]
    for tensor in graph.graph.initializer:
        tensor.name = new(tensor.name)
    del graph.graph.value_info[:]
    path = folder / "renamed.onnx"
    onnx.save(graph, str(path))
    return path


@cache
def optimised(source: Path, level: str = "BASIC") -> Path:
    """The graph after ONNX Runtime's offline optimiser, written beside the original, whose weights it shares."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    path = source.with_name(f"optimised-{level}.onnx")
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path


def pack(name: str, grids: tuple[tuple[int, int], ...] = GRIDS, tail: int = 3) -> Pack:
    """Images of random pixels; grids are enlarged to multiples of what a language model takes as one token."""
    prefix, side = FAMILIES[name].prefix, FAMILIES[name].merge
    images = random_images([(-(-h // side) * side, -(-w // side) * side) for h, w in grids], 4)
    return Pack.of(images, prefix=prefix, tokens=sum(len(image) + prefix for image in images) + tail)


def run(path: Path, pack: Pack, root: Path | None = None) -> dict[str, np.ndarray]:
    """Outputs for a pack, without the tail."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    folder = str(root or path.parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {value.name: pack.view(Role(value.name)) for value in session.get_inputs()})
    names = [value.name for value in session.get_outputs()]
    return without_tail(dict(zip(names, found, strict=True)), pack)


def without_tail(found: dict[str, np.ndarray], pack: Pack) -> dict[str, np.ndarray]:
    """The rows of images, their tokens, or blocks of their tokens."""
    return {
        name: values[: pack.useful_tokens * len(values) // pack.tokens if on_grid(name) else pack.images]
        for name, values in found.items()
    }


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() <= 1e-5 * np.abs(values).max(), name
