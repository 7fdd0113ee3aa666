"""For ONNX Runtime on a CPU: attention image by image, positions and patches in one product, any number of tokens.

The graph shares its weights with the portable graph and holds only those that passes made.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx

from naflex_deploy.build.export import input_specs, output_specs
from naflex_deploy.build.lower.cpu_attention import lower_attention
from naflex_deploy.build.lower.cpu_positions import merge_positions
from naflex_deploy.build.passes import manager
from naflex_deploy.build.passes.graphs import Model, counts, locations, read, write
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile

PRECISIONS = ("fp32",)
PASSES = ("split_gemm", "centre_pixels", "split_qkv", "fuse_positions", "fuse_attention", "fold_probe")


def unavailable() -> str | None:
    """Never: ONNX Runtime is a dependency of the runtime."""
    return None


def lower(portable: Path, directory: Path, profile: Profile, precision: str) -> Variant:
    """Write the variant's graph.

    Args:
        portable: The portable graph.
        directory: ``…/variants``; the variant gets a directory of its own in it.
        profile: Gives the budgets.
        precision: Of `PRECISIONS`.

    Raises:
        PassError: An attention was not recognised, and would hold a mask of the pack's size squared.
    """
    name = f"onnxruntime-cpu-{precision}"
    path = directory / name / "model.onnx"
    path.parent.mkdir(parents=True)
    root = portable.parent
    model = read(portable)
    before = counts(model)
    passes = rewrite(model)
    write(model, path, root)
    graph = onnx.load(str(path), load_external_data=False)
    return Variant(
        name=name,
        backend="onnxruntime",
        target="cpu",
        precision=precision,
        model=path.relative_to(root).as_posix(),
        shares=sorted(locations(model)),
        budgets=list(profile.budgets("onnxruntime")),
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        passes=passes,
        versions={package: version(package) for package in ("onnx", "onnxruntime", "torch")},
        build={"operators": {"portable": before, "lowered": counts(model)}},
    )


def rewrite(model: Model) -> list[dict[str, object]]:
    """Lower a graph in place; returns what was done, for the manifest."""
    applied = manager.run(model, PASSES, complete=("fuse_attention",))
    refused = merge_positions(model)
    return [
        *(one.record() for one in applied),
        {"pass": "merge_positions", "changed": int(not refused), "refused": {"": refused} if refused else {}},
        {"pass": "lower_attention", "changed": lower_attention(model), "refused": {}},
    ]
