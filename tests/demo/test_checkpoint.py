"""transformers reads the shipped checkpoint as intended, and it classifies the shipped pages correctly."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Siglip2ForImageClassification
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from naflex_deploy.demo.draw import KINDS, draw_pages

DEMO = Path(str(files("naflex_deploy").joinpath("demo")))
PAGES = sorted(path for path in (DEMO / "pages").iterdir() if path.suffix in {".png", ".jpg"})


@pytest.fixture(scope="module")
def loaded():
    return Siglip2ForImageClassification.from_pretrained(DEMO / "checkpoint", output_loading_info=True)


@pytest.fixture(scope="module")
def classify(loaded):
    processor = Siglip2ImageProcessorPil.from_pretrained(DEMO / "checkpoint")
    model = loaded[0].eval()

    def run(images: list[Image.Image]) -> list[str]:
        inputs = processor(images, return_tensors="pt")
        with torch.inference_mode():
            best = model(**inputs).logits.argmax(1)
        return [model.config.id2label[int(index)] for index in best]

    return run


def test_every_weight_has_its_place(loaded):
    model, report = loaded
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert tuple(model.config.id2label[i] for i in range(model.config.num_labels)) == KINDS


def test_small_enough_to_ship():
    assert (DEMO / "checkpoint" / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(path.stat().st_size for path in PAGES) <= 1_500_000


def test_unseen_pages_are_classified(classify):
    pages = list(draw_pages(2, 60))
    labels = classify([page.image for page in pages])
    right = sum(label == page.kind for label, page in zip(labels, pages, strict=True))
    assert right >= 54


def test_shipped_pages_are_classified(classify):
    images = [Image.open(path).convert("RGB") for path in PAGES]
    assert classify(images) == [path.stem.rpartition("-")[0] for path in PAGES]
