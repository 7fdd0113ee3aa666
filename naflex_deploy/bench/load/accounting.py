"""Accounts for an engine's tokens, of images and of three kinds of rounding, and for the attention that it computes."""

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
    """Tokens of packs by what they were used for, and attention scores.

    The first four add up to all tokens that were allocated.

    Attributes:
        useful: Tokens filled by the images' own pixels, including prefix tokens.
        patch_rounding: Tokens lost to patches at the right and bottom edges that pixels fill only in part.
        pack_tail: Tokens left over in packs of the largest budget.
        budget_rounding: Tokens added to round smaller packs up to a budget.
        useful_scores: Scores that attention within images needs, Σ Lᵢ².
        scores: Scores that the engine computed.
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
    """Account for the tokens of packs.

    Args:
        runs: The packs that ran.
        variant: The variant that ran them.
        patch_share: Share of the images' patches that their pixels fill, see `filled_share`.
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
    """Tokens and attention scores (per layer and head) that an engine computes for a pack.

    ONNX Runtime takes packs as they are, and attends within images or along rows. TensorRT rounds packs up to an
    optimization profile. Its segment form scores all tokens against all, its rows form the tokens of each row, and its
    packed form and our plugin the tokens of each image.
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
    """Form of attention of an engine with fixed shapes, such as ``segment``; empty for one with dynamic shapes."""
    if not variant.profiles:
        return ""
    # The last entry counts, because forms that were tried and refused come first.
    return str([step["form"] for step in variant.passes if step.get("pass") == "attention"][-1])


def filled_share(
    sizes: Sequence[tuple[float, float]], grids: Sequence[tuple[int, int]], patch_size: int, *, enlarged: bool
) -> float:
    """The share of the images' patches that their pixels would fill if resizing kept the aspect ratio.

    An image of H×W pixels on a grid of h×w patches of P pixels is scaled by at most s = min(h·P/H, w·P/W), and then
    fills s²·H·W/P² patches. The rest comes from stretching or padding the sides to whole patches.

    Args:
        sizes: (width, height) of each image.
        grids: (rows, columns) of each image.
        patch_size: Side of a patch in pixels.
        enlarged: Whether the profile enlarges small images; otherwise s is at most 1.
    """
    width, height = np.array(sizes, np.float64).reshape(-1, 2).T
    rows, columns = np.array(grids, np.float64).reshape(-1, 2).T
    scale = np.minimum(rows * patch_size / height, columns * patch_size / width)
    if not enlarged:
        scale = np.minimum(scale, 1)
    filled = np.minimum(scale**2 * width * height / patch_size**2, rows * columns)
    return float(filled.sum() / (rows * columns).sum())
