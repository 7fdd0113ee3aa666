"""Measures what bf16 costs in accuracy: OpenVINO's engine and torch's own bf16, both against torch in float32.

    python -m benchmarks.accuracy.bf16 [--model siglip2-base] [--mix mixed] [-o DIR]

Weights are random, the images those of `benchmarks.peers`, and every engine takes the same patches. torch runs one
image at a time, so that nothing is padded. The exit code is 5 if a figure misses its goal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.contenders import SIZES, model, padded
from benchmarks.peers.engines import PATCH_VALUES, Images
from benchmarks.peers.mixes import mixes
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.openvino.lowering import lower
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.export import export
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import BenchmarkError
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.openvino.session import OpenVinoSession
from naflex_deploy.runtime.results.figures import Float, cosine

OUTPUTS = ("pooled", "tokens")
LEAST = {"pooled": 0.9999, "tokens": 0.9995}
"""Goals for the least cosine of any row."""
MOST_OF_TORCH = 1.2
"""Goal for the error over that of torch's bf16."""

Figures = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="siglip2-base")
    parser.add_argument("--mix", nargs="+", help="mixes by name")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/bf16-accuracy"))
    options = parser.parse_args()
    own, low = model(options.model), model(options.model).bfloat16()
    for one in (own, low):
        one.set_attn_implementation("sdpa")
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="naflex-bf16-") as folder:
        portable = Path(folder) / "portable.onnx"
        export(checkpoints.read(model(options.model)).model(OUTPUTS), portable)
        variant = lower(Task(portable, portable.parent / "variants", resolve("photo", environment={}).profile, "bf16"))
        session = OpenVinoSession(portable.parent, variant)
        for mix in mixes():
            if not options.mix or mix.name in options.mix:
                images = mix.images(PATCH_VALUES)
                wanted = transformers_outputs(own, images)
                ours = session.run(Pack.of(images), OUTPUTS)
                found[mix.name] = compare(ours, transformers_outputs(low, images), wanted)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bf16-accuracy.json").write_text(json.dumps(found, indent=2) + "\n")
    print(render(found))
    if missed(found):
        sys.exit(BenchmarkError.code)


def transformers_outputs(source: torch.nn.Module, images: Images) -> dict[str, Float]:
    """Outputs of transformers in the model's own precision, [M, D] and [T, D], image by image."""
    rows: dict[str, list[Float]] = {name: [] for name in OUTPUTS}
    with torch.inference_mode():
        for image in images:
            result = source(**padded([image], next(source.parameters()).dtype))
            rows["pooled"].append(result.pooler_output.float().numpy())
            rows["tokens"].append(result.last_hidden_state[0].float().numpy())
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def compare(ours: Mapping[str, Float], torchs: Mapping[str, Float], wanted: Mapping[str, Float]) -> Figures:
    """For each output, least cosines of ours and of torch's, and the ratio of root mean square errors."""
    figures: Figures = {}
    for name, reference in wanted.items():
        errors = [float(np.sqrt(np.square(found[name] - reference).mean())) for found in (ours, torchs)]
        figures[name] = {
            "least_cosine": float(cosine(ours[name], reference).min()),
            "least_cosine_of_torch": float(cosine(torchs[name], reference).min()),
            "relative_error": errors[0] / float(np.sqrt(np.square(reference).mean())),
            "error_over_torch": errors[0] / errors[1],
        }
    return figures


def missed(found: Mapping[str, Figures]) -> bool:
    """Whether a figure misses its goal."""
    return any(
        one["least_cosine"] < LEAST[output] or one["error_over_torch"] > MOST_OF_TORCH
        for figures in found.values()
        for output, one in figures.items()
    )


def render(found: Mapping[str, Figures]) -> str:
    """The figures as Markdown."""
    lines = [
        "| images | output | least cosine | torch's bf16 | relative error | × torch's |",
        "|---|---|---|---|---|---|",
    ]
    for mix, figures in found.items():
        for output, one in figures.items():
            lines.append(
                f"| {mix} | {output} | {one['least_cosine']:.6f} | {one['least_cosine_of_torch']:.6f} "
                f"| {one['relative_error']:.4f} | {one['error_over_torch']:.2f} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
