"""Measures top-1 of the demo checkpoint on dense pages, in tiles and as one image with as many tokens as a tile.

    python -m benchmarks.accuracy.tiles [--pages 200] [--tokens 256] [--density 2] [--model demo]

A dense page is larger but has text of the same size, so that a single image of it is too coarse. In tiles, the class of
a page comes from the logits of the whole page and the mean of its tiles, as in ``classify``. The exit code is 5 unless
tiles are 3 points better.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from naflex_deploy import build, load
from naflex_deploy.core.errors import BenchmarkError
from naflex_deploy.demo.draw import Page, draw_pages
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.results.result import by_frame, join

UNSEEN_STREAM = 31
"""Stream used neither for training nor to decide how a page's images are weighted; stream 12 served for that."""

GAIN = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of one image, and of one tile")
    parser.add_argument("--density", type=float, default=2.0)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    pages = list(draw_pages(UNSEEN_STREAM, options.pages, options.density))
    found = {}
    for fit in ("fill", "tiles"):
        with tempfile.TemporaryDirectory() as directory:
            settings = [f"image.tokens={options.tokens}", f"image.fit={fit}", "image.max_tiles=1000"]
            build("doc-ocr", options.model, Path(directory) / "bundle", settings=[*settings, "image.oversize=shrink"])
            found[fit] = measure(load(Path(directory) / "bundle"), pages)
    gain = found["tiles"]["top1"] - found["fill"]["top1"]
    print(json.dumps({**vars(options), **found, "gain": round(gain, 4)}, indent=2))
    if gain < GAIN:
        sys.exit(BenchmarkError.code)


def measure(engine: Engine, pages: list[Page]) -> dict[str, float]:
    """The share of pages that are classified correctly, and their cost."""
    start = time.perf_counter()
    right = images = tokens = 0
    for frame in by_frame(engine.stream((page.image for page in pages), ("logits",))):
        best = int(np.argmax(join(frame).outputs["logits"]))
        right += engine.labels[best] == pages[frame[0].input].kind
        images += len(frame)
        tokens += sum(image.grid_hw[0] * image.grid_hw[1] for image in frame)
    return {
        "top1": round(right / len(pages), 4),
        "images_a_page": round(images / len(pages), 1),
        "tokens_a_page": round(tokens / len(pages)),
        "seconds_a_page": round((time.perf_counter() - start) / len(pages), 3),
    }


if __name__ == "__main__":
    main()
