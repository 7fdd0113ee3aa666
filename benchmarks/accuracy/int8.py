"""Measures the accuracy in int8 of the demo model, and of copies of it that plain int8 cannot represent.

    python -m benchmarks.accuracy.int8 [--pages 1000] [--samples 256] [--tokens 256] [-o DIR]

Each model is calibrated on drawn pages of one stream and measured on pages of another: with ONNX Runtime in float32, in
int8 with plain min-max ranges, and in int8 as `build --precision int8` makes it; with OpenVINO, where it is installed,
in that int8 and in bf16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.outliers import KINDS, inject
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.onnxruntime.lowering import runner
from naflex_deploy.compiler.backends.openvino import lowering as openvino
from naflex_deploy.compiler.backends.registry import lowering_of
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.golden_packs import image_packs
from naflex_deploy.compiler.passes.graphs import read
from naflex_deploy.compiler.quantize.calibration import calibrate
from naflex_deploy.compiler.quantize.prepare import default_sites, prepare
from naflex_deploy.compiler.quantize.quantization import plain
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.pack import Pack
from naflex_deploy.demo.draw import KINDS as CLASSES
from naflex_deploy.demo.draw import draw_pages
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.bundle.golden import GoldenPack
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.results.figures import Figures, Float
from tests.support.calibrations import observed

CALIBRATED, MEASURED = 5101, 5102
"""Streams of pages that neither training nor any other measurement uses."""
HELD_OUT = 32
"""Number of files, in addition to `--samples`, that a calibration holds out for its gate."""

Row = dict[str, Any]
Run = Callable[[Pack], Mapping[str, Float]]


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
    task = Task(portable, portable.parent / "variants", config.profile, "int8", prefix, calibration=spec)
    rows = judged("demo", task, packs)
    for kind, change in KINDS.items():
        copy = inject(portable, folder / kind.replace(" ", "-"), change)
        float32 = figures(runner(copy), packs)
        if float32["pooled_cosine"] < 0.9999:
            raise AssertionError(f"the copy with outliers at {kind} differs from the original: cosine {float32}")
        own = dataclasses.replace(spec, sites=observed(copy, drawn, prefix).sites)
        task = dataclasses.replace(task, portable=copy, directory=copy.parent / "variants", calibration=own)
        rows += judged(kind, task, packs)
    return rows


def judged(name: str, task: Task, packs: Sequence[GoldenPack]) -> list[Row]:
    """Measure a model in every engine."""
    return [{"model": name, "engine": engine, **figures(run, packs)} for engine, run in engines(task)]


def engines(task: Task) -> Iterator[tuple[str, Run]]:
    """Names of engines, and what runs a pack in each: in int8 with plain min-max ranges, then as builds make them."""
    model, spec = read(task.portable), task.calibrated()
    seen = {site: spec.sites[site] for site in default_sites(model)}
    ranges = {site: (min(one.low, 0), max(one.high, 0)) for site, one in seen.items()}
    yield "ONNX Runtime int8, plain min-max", runner(task.portable, plain(model, ranges, "u8"))
    quantization = prepare(task.portable, spec, "u8", task.prefix)
    yield "ONNX Runtime int8", runner(task.portable, quantization)
    if lowering_of("openvino").backend.cannot_run():
        return
    for precision, given in (("int8", quantization), ("bf16", None)):
        variant = openvino.lower(dataclasses.replace(task, precision=precision), given)
        session, outputs = open_session(task.portable.parent, variant), [output.name for output in variant.outputs]
        yield f"OpenVINO {precision}", partial(session.run, outputs=outputs)


def figures(run: Run, packs: Sequence[GoldenPack]) -> dict[str, float]:
    """Figures of an engine on packs whose float32 outputs are known."""
    found = Figures()
    for item in packs:
        found.add(run(item.pack), item.reference, item.labels)
    return found.summary()


def render(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"{report['pages']} pages of {report['tokens']} tokens at most, calibrated on {report['samples']} others.",
        "",
        "| model | engine | top-1 in float32 | top-1 | lost, points | margin error | least pooled cosine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        before, after = row["reference_accuracy"], row["accuracy"]
        lines.append(
            f"| {row['model']} | {row['engine']} | {before:.1%} | {after:.1%} | {(before - after) * 100:.1f} "
            f"| {row['margin_error']:.1%} | {row['pooled_cosine']:.4f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
