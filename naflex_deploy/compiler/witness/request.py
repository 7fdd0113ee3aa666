"""What the original is asked for: images of several grids and texts, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.sizing import ShrinkAndPad, SmartTiles

TOKENS = 40
"""Patches of an image, at most. Few suffice: grids above and below the size of a position table, narrow and square."""
MODEL_TOKENS = 4096
"""The same for a vision-language model, whose own processor chooses the sizes."""
SIZES = ((12, 12), (6, 23), (7.6, 2.3), (3, 60), (11.7, 1.9), (3.8, 6.1))
"""(height, width) of the images, in patches. They become six grids, none of one column: torch's own antialiased resize
of position tables, which the originals use, is wrong for those. No tall image is made smaller: there Pillow 13 resizes
in another order than its earlier versions and torchvision, whose pixels the runtime gives. That holds too where sides
are rounded to multiples of one or two patches."""
KEPT = ((16, 16), (8, 34), (34, 8), (20, 14), (2, 130))
"""The same for processors of torchvision, whose resize differs by up to a level: images of these sizes they keep."""
TEXTS = ("a photo of a cat", "A RED Car, at night", "x", "of all the things that do not fit into one row of it " * 9)


@dataclass(frozen=True)
class Request:
    """Written as ``request.json`` into the folder that both processes share.

    Attributes:
        library: ``transformers`` or ``timm``.
        path: Directory of the model, or file of weights of the architecture ``name``.
        name: Of timm's registry, empty where the directory says it.
        lora: Directory of an adapter that peft merges, empty for none.
        outputs: Names of the outputs of the graph.
        classes: Outputs of the classifier, 0 for none.
        labels: Texts of each class of a zero-shot model, empty for others.
        texts: To be embedded; empty without a text tower.
        patch_size: Of the model.
        sizes: (height, width) of the images, in patches.
        tokens: Patches of an image, at most.
    """

    library: str
    path: str
    name: str
    lora: str
    outputs: tuple[str, ...]
    classes: int
    labels: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]
    patch_size: int
    sizes: tuple[tuple[float, float], ...] = SIZES
    tokens: int = TOKENS


def sizes_for(preprocessing: Preprocessing) -> tuple[tuple[float, float], ...]:
    """The sizes of images for a model, in patches."""
    return KEPT if isinstance(preprocessing.sizing, ShrinkAndPad | SmartTiles) else SIZES


def images(patch_size: int, sizes: Sequence[tuple[float, float]]) -> list[npt.NDArray[np.uint8]]:
    """[h, w, 3] of each size: smooth colours under noise, as photos are."""
    rng = np.random.default_rng(7)
    found = []
    for rows, columns in sizes:
        height, width = round(rows * patch_size), round(columns * patch_size)
        y, x = np.mgrid[:height, :width]
        waves = np.stack([np.sin(y / (9 + 4 * c) + c) + np.cos(x / (13 + 5 * c)) for c in range(3)], -1)
        pixels = 128 + 50 * waves + rng.normal(0, 20, (height, width, 3))
        found.append(pixels.clip(0, 255).astype(np.uint8))
    return found
