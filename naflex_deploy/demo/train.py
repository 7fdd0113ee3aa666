"""Trains the demo checkpoint: ``python -m naflex_deploy.demo.train -o DIR`` takes about an hour on two cores.

Training starts with few tokens per page, which is quick and teaches the textures, and continues with the token counts
that the model is used with. Every page is seen once, and images are always packed, never padded.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.core.files import refuse_existing
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.demo.draw import KINDS
from naflex_deploy.demo.save import save
from naflex_deploy.demo.training_set import PATCH, Step, Tokens, draw_steps
from naflex_deploy.runtime.packing.packer import pack_lengths

ARCHITECTURE = Architecture(
    width=192,
    depth=4,
    heads=3,
    mlp_width=576,
    patch_size=PATCH,
    positions=Positions((16, 16)),
    pooling="mean",
    classes=len(KINDS),
)
STREAM = 0
PEAK_RATE = 8e-4
WARMUP_STEPS = 60
TOKENS_AT_ONCE = 8192


def few_tokens(rng: np.random.Generator) -> int:
    """Draw a token budget for the first phase."""
    return int(rng.choice([64, 100, 144]))


def usual_tokens(rng: np.random.Generator) -> int:
    """Draw a token budget for the second phase: mostly 256, some around it, a tenth at 1024."""
    return _choose(rng, {256: 0.68, 1024: 0.10, 64: 0.04, 100: 0.04, 144: 0.04, 196: 0.04, 400: 0.03, 576: 0.03})


def all_tokens(rng: np.random.Generator) -> int:
    """Draw a token budget for the last phase, in which the model must learn the strokes at 1024, twice as large."""
    return _choose(rng, {256: 0.38, 1024: 0.42, 576: 0.08, 784: 0.04, 400: 0.04, 64: 0.02, 144: 0.02})


def _choose(rng: np.random.Generator, shares: dict[int, float]) -> int:
    return int(rng.choice(list(shares), p=list(shares.values())))


PHASES: tuple[tuple[int, Tokens], ...] = ((256, few_tokens), (288, usual_tokens), (800, all_tokens))


class NormalisedLinear(nn.Linear):
    """A projection of centred pixels whose weights are those for pixels normalised to -1…1."""

    def forward(self, centred: Tensor) -> Tensor:
        return super().forward(centred / 127.5)


class PerImageAttention:
    """Attention on slices of known lengths, which are set before each pack runs."""

    lengths: Sequence[int] = ()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor:
        images = zip(
            *(torch.split(tensor.transpose(0, 1), list(self.lengths), 1) for tensor in (query, key, value)), strict=True
        )
        outputs = [F.scaled_dot_product_attention(q[None], k[None], v[None])[0] for q, k, v in images]
        return torch.cat(outputs, 1).transpose(0, 1)


def new_model() -> tuple[PackedNaFlexViT, PerImageAttention]:
    """The model before training, and the attention that it runs with."""
    attention = PerImageAttention()
    model = PackedNaFlexViT(ARCHITECTURE, ("logits",), attention)
    model.embed = NormalisedLinear(ARCHITECTURE.patch_values, ARCHITECTURE.width)
    nn.init.normal_(model.get_parameter("positions.table"), std=0.02)
    _start_from_textures(model)
    return model, attention


@torch.no_grad()
def _start_from_textures(model: PackedNaFlexViT) -> None:
    """Initialise the model to measure textures, so that the first steps do not have to learn that.

    The projection begins as cosine transforms of grey patches, and the first MLP adds their magnitudes,
    ``|z| = relu(z) + relu(-z)``. The last channels hold a constant, which keeps LayerNorm from evening out
    strong and weak textures. All of it is trained further.
    """
    gain, textures = 6.0, ARCHITECTURE.width - 16
    weights = dict(model.named_parameters())
    weights["embed.weight"][:textures] = _cosine_filters(textures)
    weights["embed.bias"][:textures] = 0
    weights["embed.bias"][textures:] = 4 * (-1.0) ** torch.arange(16)
    for block in range(ARCHITECTURE.depth):
        for name in ("out", "mlp.fc2"):
            weights[f"blocks.{block}.{name}.weight"].mul_(0.3)
    up, up_bias, down = (weights[f"blocks.0.mlp.{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    diagonal = torch.arange(textures)
    for sign, rows in ((1, diagonal), (-1, diagonal + textures)):
        up[rows] = 0
        up_bias[rows] = 0
        up[rows, diagonal] = sign * gain
        down[:, rows] = 0
        down[diagonal, rows] = 2 / gain


def _cosine_filters(count: int) -> Tensor:
    """The cosine transforms of a grey patch with the lowest frequencies, without the constant one, [count, 768]."""
    place, frequency = torch.arange(PATCH) + 0.5, torch.arange(PATCH)
    cosines = torch.cos(math.pi / PATCH * frequency[:, None] * place) * (2 / PATCH) ** 0.5
    pairs = sorted(((v, u) for v in range(PATCH) for u in range(PATCH)), key=lambda pair: (sum(pair), pair))
    grey = torch.stack([torch.outer(cosines[v], cosines[u]) for v, u in pairs[1 : count + 1]])
    return (grey[..., None] / 3).expand(-1, -1, -1, 3).flatten(1)


def training_steps(processes: int) -> Iterator[Step]:
    """The steps of all phases."""
    first = 0
    for count, tokens in PHASES:
        yield from draw_steps(STREAM, range(first, first + count), tokens, processes)
        first += count


def train(steps: Iterable[Step], count: int) -> PackedNaFlexViT:
    """Train for ``count`` steps under one cosine schedule."""
    torch.manual_seed(0)
    model, attention = new_model()
    body = [p for name, p in model.named_parameters() if not name.startswith("classifier")]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in body if p.ndim > 1]},
        {"params": [p for p in body if p.ndim == 1], "weight_decay": 0.0},
        # At first, averaged tokens differ little from page to page, so the classifier's weights must grow quickly.
        {"params": list(model.get_submodule("classifier").parameters()), "lr": 10 * PEAK_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / count))
    )
    start, recent = time.monotonic(), math.log(len(KINDS))
    for number, step in enumerate(steps, 1):
        loss = sum(_backward(model, attention, *part) for part in _parts(step))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        recent += 0.05 * (loss - recent)
        if number % 25 == 0:
            print(f"step {number}/{count}  loss {recent:.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


def _parts(step: Step) -> Iterator[tuple[list[Patches], np.ndarray, float]]:
    """Split a training step into packs of bounded size, each with its share of the step."""
    lengths = [len(image) for image in step.images]
    for images in pack_lengths(lengths, TOKENS_AT_ONCE, len(lengths)):
        yield [step.images[i] for i in images], step.labels[images], len(images) / len(lengths)


def _backward(
    model: PackedNaFlexViT, attention: PerImageAttention, images: list[Patches], labels: np.ndarray, share: float
) -> float:
    pack = Pack.of(images)
    attention.lengths = np.diff(pack.offsets).tolist()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*(torch.from_numpy(pack.view(role)) for role in model.roles))["logits"]
    loss = F.cross_entropy(logits.float(), torch.from_numpy(labels), label_smoothing=0.02) * share
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def main() -> None:
    """Draw pages, train on them, and save the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    refuse_existing(arguments.output, force=False)
    torch.set_num_threads(arguments.threads)
    model = train(training_steps(arguments.threads), sum(count for count, _ in PHASES))
    save(model, KINDS, arguments.output)


if __name__ == "__main__":
    main()
