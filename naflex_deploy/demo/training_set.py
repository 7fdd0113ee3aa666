"""The training set on disk: pages drawn once, as patches at the token counts that they are learned at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from naflex_deploy.core.pack import Patches
from naflex_deploy.demo.draw import KINDS, draw_page
from naflex_deploy.runtime.fit import apply_fit, plan_fit
from naflex_deploy.runtime.patchify import patchify

PATCH = 16
PAGES_PER_FILE = 32

Budget = Callable[[np.random.Generator], int]


def draw_training_set(directory: Path, stream: int, files: range, budgets: dict[str, Budget], processes: int) -> None:
    """Draw pages once and keep their patches, once for each named way of choosing a token budget.

    Writes ``NUMBER-NAME.npz`` with ``pixels`` [T, 768] uint8, ``grid_hw`` [32, 2] and ``labels`` [32].
    """
    directory.mkdir(parents=True, exist_ok=True)
    write = partial(_write_file, directory, stream, budgets)
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        list(pool.map(write, files))


def _write_file(directory: Path, stream: int, budgets: dict[str, Budget], number: int) -> None:
    first = number * PAGES_PER_FILE
    pages = [draw_page((stream, first + i)) for i in range(PAGES_PER_FILE)]
    labels = np.array([KINDS.index(page.kind) for page in pages])
    rng = np.random.default_rng((stream, number, 1))
    for name, budget in budgets.items():
        tokens = budget(rng)
        images = [_patches(page.image, tokens) for page in pages]
        np.savez(
            directory / f"{number:05d}-{name}.npz",
            pixels=np.concatenate([image.pixels for image in images]),
            grid_hw=np.array([image.grid_hw for image in images]),
            labels=labels,
        )


def _patches(image: Image.Image, tokens: int) -> Patches:
    """A page resized to fill a token budget at its own aspect ratio, as SigLIP2's processor does."""
    fit = plan_fit((image.height, image.width), patch_size=PATCH, tokens=tokens)
    return patchify(apply_fit(image, fit), PATCH)


def read_file(path: Path) -> tuple[list[Patches], npt.NDArray[np.int64]]:
    """The pages of one training file, and their labels."""
    with np.load(path) as content:
        grids: Sequence[tuple[int, int]] = [(int(h), int(w)) for h, w in content["grid_hw"]]
        ends = np.cumsum([h * w for h, w in grids])
        pixels = np.split(content["pixels"], ends[:-1])
        return [Patches(p, grid) for p, grid in zip(pixels, grids, strict=True)], content["labels"]
