"""Chooses budgets, images per pack and row lengths for a distribution of image sizes, by a cost model of packs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.cost.cost import STEP, CostModel
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.profile import Profile
from naflex_deploy.core.rows import SEGMENT_TOKENS, rows_needed
from naflex_deploy.runtime.packing.packer import pack_lengths

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

WORTH = 0.02
"""Smallest share of the time that a larger or an additional budget must save, as each costs memory and build time."""

MOST_BUDGETS = 4

GROUPS = (1, 4, 16, 0)
"""Numbers of images that arrive together, all equally likely; 0 stands for all images."""


@dataclass(frozen=True)
class Packing:
    """The settings of packing that are chosen.

    Attributes:
        budgets: Token budgets of packs, in ascending order.
        max_images: Largest number of images in a pack.
        l_buckets: Lengths of rows, in ascending order; empty if packs are not laid out in rows.
    """

    budgets: tuple[int, ...]
    max_images: int
    l_buckets: tuple[int, ...] = ()


class Predictor:
    """Predicts the cost of images under a packing.

    Args:
        model: Cost model of the engine on this machine.
        lengths: Tokens of each image, including prefix tokens, in the order of arrival, [N].
        form: Form of attention of an engine with fixed shapes, ``segment``, ``rows`` or ``packed``; empty for an engine
            with dynamic shapes.
    """

    def __init__(self, model: CostModel, lengths: Int64, form: str = "") -> None:
        self.model, self.lengths, self.form = model, lengths, form
        self._packed: dict[tuple[int, int, int], Int64] = {}

    def seconds(self, packing: Packing, groups: Sequence[int] = GROUPS) -> float:
        """Seconds per image, as the mean over groups of such sizes."""
        return float(np.mean([self._seconds(packing, group or len(self.lengths)) for group in groups]))

    def _seconds(self, packing: Packing, group: int) -> float:
        packs = self._packs(packing.budgets[-1], packing.max_images, group)
        return float(self.model.seconds(self._features(packs, packing)).sum()) / len(self.lengths)

    def _packs(self, budget: int, max_images: int, group: int) -> Int64:
        """Images, tokens, Σ L² and longest image of each pack, [packs, 4], whatever the smaller budgets are."""
        key = budget, max_images, group
        if key not in self._packed:
            groups = [self.lengths[start : start + group] for start in range(0, len(self.lengths), group)]
            packs = [one[pack] for one in groups for pack in pack_lengths(one, budget, max_images)]
            self._packed[key] = np.array([[len(p), p.sum(), (p**2).sum(), p.max()] for p in packs])
        return self._packed[key]

    def _features(self, packs: Int64, packing: Packing) -> Float:
        images, tokens, own, longest = packs.T
        if self.form:
            images = np.full(len(packs), packing.max_images)
            tokens = _round_up(tokens, packing.budgets)
        if self.form in ("segment", "rows"):
            own = tokens**2
        if self.form == "rows" and packing.l_buckets:
            row = _round_up(longest, packing.l_buckets)
            laid = [rows_needed(*size) * size[1] ** 2 for size in zip(tokens.tolist(), row.tolist(), strict=True)]
            own = np.where(tokens > SEGMENT_TOKENS, laid, own)
        return np.stack([np.ones(len(packs)), images, tokens, own], axis=1).astype(np.float64)


def _round_up(values: Int64, steps: Sequence[int]) -> Int64:
    return np.array(steps)[np.searchsorted(steps, values)]


def choose_packing(predictor: Predictor, current: Packing, *, least: int, most: int) -> Packing:
    """Choose the smallest packing that is nearly the fastest.

    The largest budget is chosen first, because packs are filled up to it, and the number of images per pack second.
    Smaller budgets and row lengths are then added while each one saves at least `WORTH`.

    Args:
        predictor: Predicts the cost of a packing.
        current: The packing of the current profile.
        least: Smallest size of the largest budget.
        most: Largest size of the largest budget.
    """
    budgets = sorted({*_ladder(least, most), *(b for b in current.budgets[-1:] if least <= b <= most)})
    images = sorted({1 << power for power in range(9)} | {current.max_images})
    # Packs of as many images as fit, where they cost nothing until they are there: the current number may be too small.
    packing = current if predictor.form else replace(current, max_images=images[-1])
    packing = _smallest(predictor, [replace(packing, budgets=(budget,)) for budget in budgets])
    packing = _smallest(predictor, [replace(packing, max_images=count) for count in images])
    if not predictor.form:
        return packing
    smaller = range(STEP, packing.budgets[-1], STEP)
    packing = _extend(predictor, packing, lambda more: replace(packing, budgets=(*more, packing.budgets[-1])), smaller)
    if predictor.form != "rows" or packing.budgets[-1] <= SEGMENT_TOKENS:
        return packing
    longest = -(-int(predictor.lengths.max()) // 16) * 16
    return _extend(
        predictor,
        replace(packing, l_buckets=(longest,)),
        lambda more: replace(packing, l_buckets=(*more, longest)),
        range(16, longest, 16),
    )


def improved(predictor: Predictor, before: Packing, after: Packing) -> Packing:
    """The later packing, or the earlier one where that is predicted to take less than `WORTH` longer."""
    return before if predictor.seconds(before) < (1 + WORTH) * predictor.seconds(after) else after


def _ladder(least: int, most: int) -> list[int]:
    """Budgets from ``least`` to ``most``, each about √2 times the one before, rounded up to multiples of `STEP`."""
    count = max(1, round(2 * np.log2(max(1.0, most / least))) + 1)
    steps = np.geomspace(least, max(least, most), count)
    return sorted({min(max(least, most), -(-int(np.ceil(step)) // STEP) * STEP) for step in steps})


def _smallest(predictor: Predictor, candidates: Sequence[Packing]) -> Packing:
    """The first candidate that takes at most `WORTH` longer than the fastest."""
    seconds = [predictor.seconds(candidate) for candidate in candidates]
    return next(c for c, s in zip(candidates, seconds, strict=True) if s <= (1 + WORTH) * min(seconds))


def _extend(
    predictor: Predictor,
    packing: Packing,
    with_values: Callable[[tuple[int, ...]], Packing],
    candidates: Iterable[int],
) -> Packing:
    """Add one value after another, always the one that saves most, while it saves at least `WORTH`."""
    chosen: tuple[int, ...] = ()
    best, values = predictor.seconds(packing), list(candidates)
    while values and len(chosen) < MOST_BUDGETS - 1:
        tried = {value: predictor.seconds(with_values(tuple(sorted({*chosen, value})))) for value in values}
        value = min(tried, key=lambda value: tried[value])
        if tried[value] > (1 - WORTH) * best:
            break
        chosen, best = tuple(sorted({*chosen, value})), tried[value]
        packing = with_values(chosen)
    return packing


def tuned_profile(profile: Profile, backend: str, packing: Packing) -> Profile:
    """The profile with a packing for a backend, with ``-tuned`` added to its name.

    What other backends take stays as it is; TensorRT and TensorRT-RTX share a section of the profile.
    """
    values = profile.model_dump(by_alias=True, exclude_none=True)
    values["name"] = f"{profile.name}-tuned"
    section = values["engine"][FOLDERS[backend]]
    section["budgets"], section["max_images"] = list(packing.budgets), packing.max_images
    if packing.l_buckets:
        section["l_buckets"] = list(packing.l_buckets)
    return Profile.parse(values, source=lambda path: f"the tuned {profile.name}")
