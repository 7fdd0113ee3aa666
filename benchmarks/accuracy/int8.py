"""Measures the accuracy in int8 of the demo model, and of copies of it that plain int8 cannot represent.

    python -m benchmarks.accuracy.int8 [--pages 1000] [--samples 256] [--tokens 256] [-o DIR]

Each model is calibrated on drawn pages of one stream and measured on pages of another with ONNX Runtime: in float32,
in int8 with plain min-max ranges, and in int8 as `build --precision int8` makes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.outliers import KINDS, inject
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.onnxruntime.lowering import runner
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.golden_packs import image_packs
from naflex_deploy.compiler.passes.graphs import read
from naflex_deploy.compiler.quantize.calibration import calibrate
from naflex_deploy.compiler.quantize.prepare import default_sites, prepare
from naflex_deploy.compiler.quantize.quantization import Quantization, plain
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.demo.draw import KINDS as CLASSES
from naflex_deploy.demo.draw import draw_pages
from naflex_deploy.runtime.bundle.golden import GoldenPack
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.results.figures import Figures
from tests.support.calibrations import observed

CALIBRATED, MEASURED = 5101, 5102
"""Streams of pages that neither training nor any other measurement uses."""
HELD_OUT = 32
"""Number of files, in addition to `--samples`, that a calibration holds out for its gate."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1000, help="pages to measure on")
    parser.add_argument("--samples", type=int, default=256, help="pages to calibrate on")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per page")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/int8-accuracy"))
    options = parser.parse_args()
    overrides = {"image.tokens": options.tokens, "calibration.samples": options.samples}
    config = resolve("doc-ocr", overrides=overrides, environment={})
    with tempfile.TemporaryDirectory(prefix="naflex-int8-") as folder:
        rows = measure(config, Path(folder), options.pages)
    report = {"schema": 1, "pages": options.pages, "samples": options.samples, "tokens": options.tokens, "rows": rows}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "int8-accuracy.json").write_text(json.dumps(report, indent=2) + "\n")
    table = render(report)
    (options.output / "int8-accuracy.md").write_text(table)
    print(table)


def measure(config: Config, folder: Path, count: int) -> list[Row]:
    """Measure one row for each model and each way to quantise it."""
    checkpoint = checkpoints.read("demo")
    prefix = checkpoint.architecture.prefix
    portable = folder / "demo" / "portable.onnx"
    portable.parent.mkdir()
    export(checkpoint.model(("pooled", "logits")), portable)
    preparer = Preparer(checkpoint.preprocessing, config.profile, "onnxruntime", prefix)
    images = folder / "images"
    images.mkdir()
    drawn = []
    for index, page in enumerate(draw_pages(CALIBRATED, config.profile.calibration.samples + HELD_OUT)):
        page.image.save(images / f"{index}.png")
        drawn.append(preparer.pixels(np.asarray(page.image)))
    spec = calibrate(config, "demo", images, folder / "calibration.json").spec
    pages = [(preparer.pixels(np.asarray(page.image)), page.kind) for page in draw_pages(MEASURED, count)]
    seen, labels = [patches for patches, _ in pages], [CLASSES.index(kind) for _, kind in pages]
    packs = image_packs(runner(portable), seen, labels, prefix=prefix, budget=1024, max_images=64)
    rows = judged("demo", portable, spec, packs, prefix)
    for kind, change in KINDS.items():
        copy = inject(portable, folder / kind.replace(" ", "-"), change)
        float32 = figures(copy, None, packs)
        if float32["pooled_cosine"] < 0.9999:
            raise AssertionError(f"the copy with outliers at {kind} differs from the original: cosine {float32}")
        own = dataclasses.replace(spec, sites=observed(copy, drawn, prefix).sites)
        rows += judged(kind, copy, own, packs, prefix)
    return rows


def judged(name: str, portable: Path, spec: QuantSpec, packs: Sequence[GoldenPack], prefix: int) -> list[Row]:
    """Measure a model with plain min-max ranges, and with our quantisation."""
    model = read(portable)
    seen = {site: spec.sites[site] for site in default_sites(model)}
    ranges = {site: (min(one.low, 0), max(one.high, 0)) for site, one in seen.items()}
    ways = {
        "plain min-max": plain(model, ranges, "u8"),
        "naflex-deploy": prepare(portable, spec, "u8", prefix),
    }
    return [
        {"model": name, "int8": way, **figures(portable, quantization, packs)} for way, quantization in ways.items()
    ]


def figures(portable: Path, quantization: Quantization | None, packs: Sequence[GoldenPack]) -> dict[str, float]:
    """Figures of a graph on packs whose float32 outputs are known."""
    run, found = runner(portable, quantization), Figures()
    for item in packs:
        found.add(run(item.pack), item.reference, item.labels)
    return found.summary()


def render(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"{report['pages']} pages of {report['tokens']} tokens at most, calibrated on {report['samples']} others.",
        "",
        "| model | int8 | top-1 in float32 | top-1 in int8 | lost, points | margin error | least pooled cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        before, after = row["reference_accuracy"], row["accuracy"]
        lines.append(
            f"| {row['model']} | {row['int8']} | {before:.1%} | {after:.1%} | {(before - after) * 100:.1f} "
            f"| {row['margin_error']:.1%} | {row['pooled_cosine']:.4f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
