"""A narrow `Siglip2Model` with its tokenizer, and a bundle of it with labels and text tower, built once a run."""

from __future__ import annotations

import tests.support.imports  # noqa: F401  before transformers and timm

# isort: split
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import Siglip2Config, Siglip2Model, Siglip2Tokenizer

from naflex_deploy.cli import main
from tests.support.shared import once
from tests.support.siglip2 import SMALL
from tests.support.weights import reseed

LENGTH = 12
WIDTH = SMALL["hidden_size"]

TEXTS = [
    "a cat",
    "A photo of a DOG",
    "",
    "ÅNGSTRÖM 東京 ΣΑΣ",
    "of all the things that do not fit into one row of it",
    "x",
]
NAMES = ["cat", "dog", "nothing", "units", "long", "x"]
SETTINGS = ["image.fit=pad-to-patch", "image.tokens=64", "engine.backends=['onnxruntime']", "head.thresholds={x = 1.0}"]


def tokenizer(side: str = "right") -> Siglip2Tokenizer:
    """Letters, a few merges, bytes for everything else."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [f"<0x{byte:02X}>" for byte in range(256)] + [*"▁abcdefghijklmnopqrstuvwxyz"]
    merges = [("c", "a"), ("ca", "t"), ("▁", "o"), ("▁o", "f")]
    vocabulary = [*specials, *letters, *("".join(pair) for pair in merges)]
    return Siglip2Tokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        padding_side=side,
        add_bos_token=False,
        add_eos_token=True,
    )


def two_towers(**changes: object) -> Siglip2Model:
    """Seeded weights, a scale and a bias as trained models have."""
    text = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "vocab_size": len(tokenizer()),
        "max_position_embeddings": LENGTH,
        "projection_size": WIDTH,
    }
    vision = SMALL | {"num_hidden_layers": 1}
    model = reseed(Siglip2Model(Siglip2Config(vision_config=vision, text_config=text | changes)), gain=2.0, probe=4.0)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(110))
        model.logit_bias.fill_(-15)
    return model


def _build(folder: Path) -> None:
    """Write the directory as transformers writes it, and the bundle."""
    model, bundle = folder / "model", folder / "bundle"
    two_towers().save_pretrained(model)
    tokenizer().save_pretrained(model)
    lines = [f"{name}\t{text}\n" if text else f"{name}\n\n" for name, text in zip(NAMES, TEXTS, strict=True)]
    (model / "labels.txt").write_text("".join(lines), encoding="utf-8")
    arguments = [
        "build",
        "--profile",
        "photo",
        "--model",
        model,
        "--labels",
        model / "labels.txt",
        "--text",
        "-o",
        bundle,
    ]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="session")
def directory() -> Path:
    """Model, tokenizer and labels. Not to be changed."""
    return once("two-towers", _build) / "model"


@pytest.fixture(scope="session")
def bundle() -> Path:
    """A bundle with these labels and the text tower. Not to be changed."""
    return once("two-towers", _build) / "bundle"
