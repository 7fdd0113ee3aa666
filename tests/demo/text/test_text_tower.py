"""The shipped text tower is what transformers reads, and it finds the right kinds of pages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Siglip2Config, Siglip2Model

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.checkpoints.text_checkpoint import Text, read_text
from naflex_deploy.core.pack import Pack
from naflex_deploy.demo.draw import KINDS, draw_page
from naflex_deploy.demo.text.evaluate import ranked, wrong
from naflex_deploy.demo.text.phrases import draw_text
from naflex_deploy.demo.text.queries import QUERIES
from naflex_deploy.demo.text.words import WORDS
from naflex_deploy.demo.training_set import page_patches
from naflex_deploy.runtime.results.embeddings import unit
from tests.demo.test_checkpoint import DEMO

CHECKPOINT = DEMO / "text" / "checkpoint"
TEXTS = [text for texts in QUERIES.values() for text in texts]


@pytest.fixture(scope="module")
def text() -> Text:
    return read_text("demo")


def test_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 2_000_000


def test_transformers_computes_the_same_vectors(text: Text) -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    vision = json.loads((DEMO / "checkpoint" / "config.json").read_text())["vision_config"]
    model = Siglip2Model(Siglip2Config(text_config=config, vision_config=vision)).eval()
    report = model.load_state_dict(load_file(CHECKPOINT / "model.safetensors"), strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith("vision_model.") for key in report.missing_keys)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(CHECKPOINT)
    rows = tokenizer(
        [one.lower() for one in TEXTS], padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model.get_text_features(**rows)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(text.vectors(TEXTS), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_queries_find_pages_of_their_kind(text: Text) -> None:
    assert len(TEXTS) == 50
    tower = checkpoints.read("demo").model(("pooled",))
    kinds = [kind for kind in KINDS for _ in range(2)]
    pages = []
    for number, kind in enumerate(kinds):
        pack = Pack.of([page_patches(draw_page((12, number), kind).image, 256)])
        with torch.inference_mode():
            pages.append(tower(*(torch.from_numpy(pack.view(role)) for role in tower.roles))["pooled"][0].numpy())
    order = ranked(unit(np.stack(pages)), unit(text.vectors(TEXTS).numpy()))
    assert len(wrong(order, kinds)) <= 5
    assert len(wrong(order, kinds[2:] + kinds[:2])) >= 45


def test_training_never_sees_the_queries() -> None:
    assert tuple(WORDS) == tuple(QUERIES) == KINDS
    held_out = {one.lower() for one in TEXTS}
    rng = np.random.default_rng(5)
    drawn = [draw_text(rng, kind) for kind in KINDS for _ in range(200)]
    assert not held_out & {one.lower() for one in drawn}
    for words in WORDS.values():
        assert not held_out & {*words.names, *words.marks, *words.asks}
