"""Draws training steps while the model trains: pages as patches, each with its own number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.pack import Patches
from naflex_deploy.demo.draw import KINDS, draw_page
from naflex_deploy.runtime.images.fit import apply_fit, plan_fit
from naflex_deploy.runtime.images.patchify import patchify

PATCH = 16
PAGES_A_STEP = 32
_STEPS_AT_ONCE = 32  # Steps drawn together: enough to keep the processes busy, in less than 600 MB.

Tokens = Callable[[np.random.Generator], int]


@dataclass(frozen=True)
class Step:
    """The data of one optimizer step: images, and the index of each image's kind, [N] int64."""

    images: list[Patches]
    labels: npt.NDArray[np.int64]


def draw_steps(stream: int, steps: range, tokens: Tokens, processes: int) -> Iterator[Step]:
    """Draw the pages of numbered steps, a few dozen steps ahead. Steps never share a page.

    Args:
        stream: Seed that no evaluation uses.
        steps: Numbers of the steps.
        tokens: Chooses a page's token budget; a module's function, since it travels to other processes.
        processes: How many draw.
    """
    draw = partial(_draw_step, stream, tokens)
    with ProcessPoolExecutor(processes, get_context("forkserver")) as pool:
        for i in range(0, len(steps), _STEPS_AT_ONCE):
            yield from list(pool.map(draw, steps[i : i + _STEPS_AT_ONCE]))


def _draw_step(stream: int, tokens: Tokens, number: int) -> Step:
    first = number * PAGES_A_STEP
    pages = [draw_page((stream, first + i)) for i in range(PAGES_A_STEP)]
    rng = np.random.default_rng((stream, number, 1))
    return Step(
        images=[page_patches(page.image, tokens(rng)) for page in pages],
        labels=np.array([KINDS.index(page.kind) for page in pages]),
    )


def page_patches(image: Image.Image, tokens: int) -> Patches:
    """Resize a page to fill a token budget at its native aspect ratio, as SigLIP2's processor does."""
    fit = plan_fit((image.height, image.width), patch_size=PATCH, tokens=tokens)
    return patchify(apply_fit(image, fit), PATCH)
