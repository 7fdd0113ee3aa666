"""A manifest without a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from naflex_deploy.core.config import resolve
from naflex_deploy.core.manifest import FILE_NAME, SCHEMA, FileEntry, InputSpec, Manifest, Model, OutputSpec, Variant
from naflex_deploy.core.manifest.reading import sealed
from naflex_deploy.core.pack import Role
from naflex_deploy.core.preprocessing import Preprocessing

INPUTS = [
    InputSpec(role=Role.PATCHES, dtype="uint8", shape=["tokens", 48]),
    InputSpec(role=Role.SEGMENT_IDS, dtype="int32", shape=["tokens"]),
]
OUTPUTS = [
    OutputSpec(name="pooled", dtype="float32", shape=["images", 3]),
    OutputSpec(name="tokens", dtype="float32", shape=["tokens", 3]),
]


def a_variant(name: str = "onnxruntime-cpu-fp32", backend: str = "onnxruntime", **changes: object) -> Variant:
    variant = Variant(
        name=name,
        backend=backend,
        target="cpu",
        precision="fp32",
        model=f"variants/{name}/model.onnx",
        budgets=[16, 64],
        inputs=INPUTS,
        outputs=OUTPUTS,
    )
    return variant.model_copy(update=changes)


def a_manifest(*variants: Variant) -> Manifest:
    """The manifest of a model with patch size 4 and width 3, at most 64 tokens per image and 5 images per pack."""
    config = resolve(
        "photo",
        settings=["image.tokens=64", "engine.onnxruntime.budgets=[16, 64]", "packing.max_images=5"],
        environment={},
    )
    return Manifest(
        schema=SCHEMA,
        tool="naflex-deploy 0",
        created="2024-01-01T00:00:00+00:00",
        model=Model(source="random", digest="0" * 64, architecture={"width": 3}, parameters=1),
        preprocessing=Preprocessing(patch_size=4),
        inputs=INPUTS,
        outputs=OUTPUTS,
        variants=list(variants) or [a_variant()],
        files={"golden.npz": FileEntry(sha256="0" * 64, size=1)},
        config=config.profile,
        origins=config.origins,
    )


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a bundle as somebody would who seals it again."""
    path = bundle / FILE_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content)))
