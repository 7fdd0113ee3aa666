"""Measures the top-1 accuracy of the demo checkpoint on unseen pages: ``python -m naflex_deploy.demo.evaluate``.

Pages run through a built engine twice: at their native aspect ratio, and squashed into a square of as many tokens.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from PIL import Image

from naflex_deploy import build, load
from naflex_deploy.demo.draw import Page, draw_pages
from naflex_deploy.runtime.engine import Engine

PATCH = 16
UNSEEN_STREAM = 12


def squash(image: Image.Image, tokens: int) -> Image.Image:
    """Force a page into a square with sides of ⌊√tokens⌋ patches, whatever its shape."""
    side = math.isqrt(tokens) * PATCH
    return image.resize((side, side), Image.Resampling.BILINEAR)


def top1(engine: Engine, images: list[Image.Image], pages: list[Page]) -> float:
    """Share of images that are classified as the kind of their page."""
    best = [predictions[0].name for predictions in engine.classify(images, top=1)]
    return sum(label == page.kind for label, page in zip(best, pages, strict=True)) / len(pages)


def main() -> None:
    """Build at two token counts and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=UNSEEN_STREAM, help="stream of pages; training used stream 0")
    parser.add_argument("--model", default="demo", help="demo, or the directory that a training wrote")
    parser.add_argument("--profile", default="doc-ocr")
    arguments = parser.parse_args()
    pages = list(draw_pages(arguments.seed, arguments.pages))
    images = [page.image for page in pages]
    for tokens in (256, 1024):
        with tempfile.TemporaryDirectory() as directory:
            bundle = Path(directory) / "demo"
            build(arguments.profile, arguments.model, bundle, settings=[f"image.tokens={tokens}"])
            engine = load(bundle)
            native = top1(engine, images, pages)
            square = top1(engine, [squash(image, tokens) for image in images], pages)
        print(
            f"{tokens} tokens: native aspect {native:.1%}, forced square {square:.1%} ({len(pages)} pages)", flush=True
        )


if __name__ == "__main__":
    main()
