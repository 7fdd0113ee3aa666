"""Every family as a portable graph: stock operators, equal in ONNX Runtime, each image isolated from the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES
from naflex_deploy.compiler.checkpoints.timm.config import TimmConfig
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.model.architecture import Architecture, Positions, Rope
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.core.pack import Pack, Patches
from tests.support import graphs
from tests.support.naflexvit import named
from tests.support.packs import random_images

REFUSED_BY_ENGINES = {"Resize", "GridSample", "If", "Loop", "Scan", "Upsample"}
GRIDS = ((1, 9), (6, 1), (19, 3), (1, 70), (5, 5), (1, 1))
TABLE = Positions((6, 6))


def shape(positions: Positions | None = TABLE, **options) -> Architecture:
    return Architecture(32, 1, 2, 48, 4, positions, **options)


FAMILIES = (
    pytest.param("naflexvit_base_patch16_gap", marks=pytest.mark.exhaustive),
    "naflexvit_base_patch16_par_gap",
    "naflexvit_base_patch16_parfac_gap",
    "naflexvit_base_patch16_map",
    pytest.param("naflexvit_base_patch16_siglip", marks=pytest.mark.exhaustive),
    "naflexvit_base_patch16_radio_v3",
    pytest.param("naflexvit_so400m_patch16_radio_v4", marks=pytest.mark.exhaustive),
)
"""Those that are swept have the options of others here, one by one."""
OWN = {
    "learned softmax, aligned corners, coordinate MLP, rope dinov3, mean and max with prefix, representation": shape(
        Positions((6, 5), "learned_softmax", align_corners=True),
        coordinate_mlp=16,
        rope=Rope("dinov3", 100.0, column_first=True),
        pooling="mean_max",
        class_token=True,
        registers=1,
        pool_prefix=True,
        representation=20,
        classes=3,
    ),
    "bicubic by gather, rope mixed, map with prefix, norms": shape(
        Positions((6, 6), "bicubic", antialias=False, square=True),
        rope=Rope("mixed", 10.0),
        class_token=True,
        registers=2,
        pool_prefix=True,
        patch_norm=True,
        pre_norm=True,
        qk_norm=True,
        attention_norm=True,
        mlp_norm=True,
    ),
    "bicubic with aligned corners, rope axial, SwiGLU, gate": shape(
        Positions((6, 6), "bicubic", align_corners=True),
        rope=Rope("axial", reference=(6, 6)),
        class_token=True,
        gated_mlp=True,
        mlp_norm=True,
        attention_gate=True,
        final_norm="none",
    ),
}
"""Options that no registered name has."""
SHARED = ("learned softmax", "coordinate MLP", "rope mixed, gates", "tokens alone, patch norm")
"""Further ones, whose graphs other tests use too."""


def small_checkpoint(name: str) -> Checkpoint:
    if architecture := OWN.get(name) or (graphs.FAMILIES[name] if name in SHARED else None):
        return random_checkpoint(architecture)
    return read(named(name, embed_dim=32, depth=1, num_heads=2, patch_size=4))


class Graph:
    """A checkpoint as a graph in ONNX Runtime."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        architecture = checkpoint.architecture
        self.prefix = architecture.prefix
        self.outputs = tuple(name for name in ("tokens", "pooled", "logits") if name in architecture.outputs)
        self.reference = checkpoint.model(self.outputs, ragged_attention)
        export(checkpoint.model(self.outputs), folder / "portable.onnx")
        self.proto = onnx.load(folder / "portable.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(folder / "portable.onnx", options, providers=providers)

    def pack(self, images: list[Patches], tail: int = 0, unused: int = 0) -> Pack:
        tokens = sum(len(image) + self.prefix for image in images)
        return Pack.of(images, prefix=self.prefix, tokens=tokens + tail, slots=len(images) + unused)

    def run(self, pack: Pack) -> dict[str, np.ndarray]:
        found = self.session.run(list(self.outputs), {role.value: pack.view(role) for role in self.reference.roles})
        return dict(zip(self.outputs, found, strict=True))

    def each(self, pack: Pack, results: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Results by image."""
        return [
            {name: values[a:b] if name == "tokens" else values[i] for name, values in results.items()}
            for i, (a, b) in enumerate(zip(pack.offsets, pack.offsets[1:], strict=False))
        ]


@pytest.fixture(scope="module", params=[*FAMILIES, *OWN, *SHARED])
def graph(request, tmp_path_factory) -> Graph:
    return Graph(small_checkpoint(request.param), tmp_path_factory.mktemp("graph"))


def test_the_families_cover_every_registered_name():
    """Each name's graph is that of one of the families, but for sizes."""

    def kind(name: str) -> Architecture:
        registered = ARCHITECTURES[name]
        sizes = {"width": 4, "depth": 1, "heads": 1, "mlp_width": 4, "pool_mlp_width": 4, "pool_heads": None}
        options = TimmConfig.of(registered.options, name).architecture(registered.classes)
        return dataclasses.replace(options, registers=min(options.registers, 1), **sizes)

    families = {family if isinstance(family, str) else family.values[0] for family in FAMILIES}
    assert {kind(name) for name in ARCHITECTURES} == {kind(name) for name in families}


def test_stock_operators_alone(graph):
    assert [opset.domain for opset in graph.proto.opset_import] == [""]
    assert not graph.proto.functions
    assert not REFUSED_BY_ENGINES & {node.op_type for node in graph.proto.graph.node}


def test_equal_to_the_reference(graph):
    pack = graph.pack(random_images(GRIDS, 4), tail=3, unused=2)
    with torch.inference_mode():
        views = [torch.from_numpy(np.ascontiguousarray(pack.view(role))) for role in graph.reference.roles]
        expected = {name: values.numpy() for name, values in graph.reference(*views).items()}
    found = graph.run(pack)
    for ours, theirs in zip(graph.each(pack, found), graph.each(pack, expected), strict=True):
        for name in graph.outputs:
            assert np.abs(ours[name] - theirs[name]).max() <= 1e-5 * max(1, np.abs(expected[name]).max()), name


def test_isolation(graph):
    """Alone, in another order among others, before a tail: the same result."""
    images = random_images(GRIDS, 4)
    pack = graph.pack(images)
    together = graph.each(pack, graph.run(pack))
    order = [3, 5, 0, 4, 2]
    shuffled = graph.pack([images[i] for i in order], tail=11, unused=1)
    others = dict(zip(order, graph.each(shuffled, graph.run(shuffled)), strict=True))
    alone = {
        i: graph.each(single, graph.run(single))[0] for i in (0, 1) for single in [graph.pack([images[i]], tail=2)]
    }
    for again in (others, alone):
        for i, results in again.items():
            for name in graph.outputs:
                scale = max(1, np.abs(together[i][name]).max())
                assert np.abs(results[name] - together[i][name]).max() <= 1e-5 * scale, (name, i)
