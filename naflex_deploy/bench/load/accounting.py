"""Where an engine's tokens go: to the image, and to three kinds of rounding; and how much attention it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from naflex_deploy.bench.load.recording import PackRun
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.core.rows import row_views
from naflex_deploy.runtime.backends.tensorrt.shapes import choose_profile


@dataclass(frozen=True)
class Allocation:
    """Tokens of packs, and of what.

    The first four add up to all that was allocated, with ``useful``.

    Attributes:
        useful: Tokens that the images' own pixels fill, prefix tokens included.
        patch_rounding: The rest of patches at the right and bottom edges.
        pack_tail: Left over in packs of the largest budget.
        budget_rounding: From a smaller pack up to the budget that it ran in.
        useful_scores: Σ Lᵢ², what attention within images needs.
        scores: What the engine computed.
    """

    useful: float = 0.0
    patch_rounding: float = 0.0
    pack_tail: float = 0.0
    budget_rounding: float = 0.0
    useful_scores: float = 0.0
    scores: float = 0.0

    @property
    def allocated(self) -> float:
        return self.useful + self.patch_rounding + self.pack_tail + self.budget_rounding

    def __add__(self, other: Allocation) -> Allocation:
        return Allocation(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def allocation(runs: Iterable[PackRun], variant: Variant, patch_share: float) -> Allocation:
    """What packs were made of.

    Args:
        patch_share: Of the images' patches, the part that their pixels fill: see `filled_share`.
    """
    return sum((_of_pack(run, variant, patch_share) for run in runs), Allocation())


def _of_pack(run: PackRun, variant: Variant, patch_share: float) -> Allocation:
    lengths = run.lengths
    own = int(lengths.sum())
    patches = own - run.prefix * len(lengths)
    tokens, scores = computed(run.shape, variant)
    rest = tokens - own
    largest = tokens >= variant.budgets[-1]
    return Allocation(
        useful=own - patches * (1 - patch_share),
        patch_rounding=patches * (1 - patch_share),
        pack_tail=rest if largest else 0,
        budget_rounding=0 if largest else rest,
        useful_scores=float((lengths**2).sum()),
        scores=scores,
    )


def computed(pack: Pack, variant: Variant) -> tuple[int, float]:
    """Tokens and attention scores (a layer and head) that an engine computes for a pack.

    ONNX Runtime takes packs as they are and attends within images, or along the rows that it has them laid into.
    TensorRT rounds up to an optimization profile; its segment form has scores of all tokens with all, its rows form
    of each row, its packed form and our plugin of each image.
    """
    own = float((np.diff(pack.offsets) ** 2).sum())
    if not variant.profiles:
        rows = row_views(pack, (spec.role for spec in variant.inputs)).get(Role.PAD_INDEX)
        return pack.tokens, own if rows is None else float(rows.size * rows.shape[1])
    sizes = variant.profiles[choose_profile(pack, variant.profiles)]
    if attention_form(variant) in ("packed", "plugin"):
        return sizes["tokens"], own
    return sizes["tokens"], float(sizes.get("rows", 1) * sizes.get("row_tokens", sizes["tokens"]) ** 2)


def attention_form(variant: Variant) -> str:
    """How an engine of fixed shape attends: ``segment``, ``rows``, ``packed``; empty for one of any shape."""
    if not variant.profiles:
        return ""
    # Forms that were tried and refused come first.
    return str([step["form"] for step in variant.passes if step.get("pass") == "attention"][-1])


def filled_share(
    sizes: Sequence[tuple[float, float]], grids: Sequence[tuple[int, int]], patch_size: int, *, enlarged: bool
) -> float:
    """The part of the images' patches that their pixels fill, had they been resized without changing their shape.

    An image of H×W pixels on a grid of h×w patches of P pixels has been scaled by at most s = min(h·P/H, w·P/W),
    and then fills s²·H·W/P² patches; sides are rounded up to whole patches by stretching or padding.

    Args:
        sizes: (width, height) of each image.
        grids: (rows, columns) of each.
        enlarged: Whether the profile enlarges small images; otherwise s is at most 1.
    """
    width, height = np.array(sizes, np.float64).reshape(-1, 2).T
    rows, columns = np.array(grids, np.float64).reshape(-1, 2).T
    scale = np.minimum(rows * patch_size / height, columns * patch_size / width)
    if not enlarged:
        scale = np.minimum(scale, 1)
    filled = np.minimum(scale**2 * width * height / patch_size**2, rows * columns)
    return float(filled.sum() / (rows * columns).sum())
