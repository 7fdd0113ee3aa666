"""For ONNX Runtime on a CPU: the portable graph as it stands, any number of tokens and images."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx

from naflex_deploy.build.export import input_specs, output_specs
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile

PRECISIONS = ("fp32",)


def unavailable() -> str | None:
    """Never: ONNX Runtime is a dependency of the runtime."""
    return None


def lower(portable: Path, directory: Path, profile: Profile, precision: str) -> Variant:
    """Write the variant's graph, its weights beside it.

    Args:
        portable: The portable graph.
        directory: ``…/variants``; the variant gets a directory of its own in it.
        profile: Gives the budgets.
        precision: Of `PRECISIONS`.
    """
    name = f"onnxruntime-cpu-{precision}"
    folder = directory / name
    folder.mkdir(parents=True)
    graph = onnx.load(str(portable))
    onnx.save(graph, str(folder / "model.onnx"), save_as_external_data=True, location="model.onnx.data")
    return Variant(
        name=name,
        backend="onnxruntime",
        target="cpu",
        precision=precision,
        model=f"{directory.name}/{name}/model.onnx",
        budgets=list(profile.budgets("onnxruntime")),
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        versions={package: version(package) for package in ("onnx", "onnxruntime", "torch")},
    )
