"""Trains the text tower of the demo model: ``python -m naflex_deploy.demo.text.train -o DIR`` takes some minutes.

The image tower stays as it is. Pages are embedded once, and the text tower learns to put texts where the pages are that
they describe, with the sigmoid loss of SigLIP, in which every text and page of one kind belong together.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.model.text_transformer import TextArchitecture, TextTransformer
from naflex_deploy.core.files import refuse_existing
from naflex_deploy.core.pack import Pack
from naflex_deploy.demo.draw import KINDS, draw_page
from naflex_deploy.demo.text.phrases import draw_text
from naflex_deploy.demo.text.save import EOS, PAD, save
from naflex_deploy.demo.training_set import page_patches

ARCHITECTURE = TextArchitecture(
    width=96, depth=2, heads=4, mlp_width=192, vocabulary=1024, length=24, outputs=192, activation="gelu_tanh"
)
STREAM = 3
"""Of pages; the image tower has seen stream 0, and is measured on stream 12."""
PAGES = 800
TOKENS = (256, 1024, 256, 576)
"""Tokens of a page, in turn."""
STEPS, BATCH, PEAK_RATE, WARMUP_STEPS = 1000, 128, 2e-3, 50
SCALE, BIAS = 10.0, -5.0
"""Of the logits before training."""


def embedded_pages(count: int) -> tuple[Tensor, Tensor]:
    """Vectors of length 1 of drawn pages [N, 192], and their kinds [N]."""
    tower = checkpoints.read("demo").model(("pooled",))
    vectors, kinds = [], []
    for index in range(count):
        page = draw_page((STREAM, index))
        pack = Pack.of([page_patches(page.image, TOKENS[index % len(TOKENS)])])
        with torch.inference_mode():
            vectors.append(tower(*(torch.from_numpy(pack.view(role)) for role in tower.roles))["pooled"][0])
        kinds.append(KINDS.index(page.kind))
    return F.normalize(torch.stack(vectors), dim=-1), torch.tensor(kinds)


def texts(stream: int) -> Iterator[tuple[str, int]]:
    """Endless texts with their kinds."""
    rng = np.random.default_rng((stream, 1))
    while True:
        kind = int(rng.integers(len(KINDS)))
        yield draw_text(rng, KINDS[kind]), kind


def train_tokenizer(examples: Sequence[str]) -> Tokenizer:
    """Merges of letters that make the words of the examples. An unknown word is spelled."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    alphabet = sorted({letter for example in examples for letter in example.lower()} | set("0123456789.,:;!?'\"-"))
    trainer = trainers.BpeTrainer(
        vocab_size=ARCHITECTURE.vocabulary,
        special_tokens=[PAD, EOS, "<unk>"],
        initial_alphabet=alphabet,
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(examples, trainer)
    eos = (EOS, tokenizer.token_to_id(EOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[eos])
    return tokenizer


def train(vectors: Tensor, kinds: Tensor, tokenizer: Tokenizer) -> tuple[TextTransformer, float, float]:
    """The tower, and the scale and bias of logits."""
    torch.manual_seed(0)
    model = TextTransformer(ARCHITECTURE)
    nn.init.normal_(model.tokens.weight, std=0.1)
    nn.init.normal_(model.positions, std=0.02)
    log_scale, bias = nn.Parameter(torch.tensor(math.log(SCALE))), nn.Parameter(torch.tensor(BIAS))
    parameters = [*model.parameters(), log_scale, bias]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
    )
    tokenizer.enable_truncation(ARCHITECTURE.length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD, length=ARCHITECTURE.length)
    drawn, rng = texts(0), np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        batch = [next(drawn) for _ in range(BATCH)]
        ids = torch.tensor([row.ids for row in tokenizer.encode_batch([text for text, _ in batch])])
        pages = torch.from_numpy(rng.choice(len(vectors), BATCH, replace=False))
        together = torch.tensor([kind for _, kind in batch])[:, None] == kinds[pages]
        logits = log_scale.exp() * F.normalize(model(ids), dim=-1) @ vectors[pages].T + bias
        loss = F.softplus(torch.where(together, -logits, logits)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        if step % 100 == 0:
            print(f"step {step}/{STEPS}  loss {loss.item():.4f}", flush=True)
    return model.eval(), float(log_scale.detach().exp()), float(bias.detach())


def main() -> None:
    """Draw pages and texts, train on them, and save the tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory of the text tower")
    arguments = parser.parse_args()
    refuse_existing(arguments.output, force=False)
    torch.set_num_threads(1)  # sums in one order, so that every run gives the same weights
    vectors, kinds = embedded_pages(PAGES)
    examples = [text for text, _ in (next(drawn) for drawn in [texts(1)] for _ in range(20_000))]
    tokenizer = train_tokenizer(examples)
    model, scale, bias = train(vectors, kinds, tokenizer)
    save(model, tokenizer, scale, bias, arguments.output)


if __name__ == "__main__":
    main()
