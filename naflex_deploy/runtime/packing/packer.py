"""Choose which images share a pack: bin packing of token counts, with a limit on images per pack.

Token counts are small integers that repeat, so packs are made as in Gilmore and Gomory's cutting-stock
formulation ("A linear programming approach to the cutting-stock problem", 1961): a *pattern* says how many
images of each length share a pack, and one pattern is used for as many packs as the remaining images allow. A
million images need some thousand patterns.

A pattern starts from its *fair share* of the remaining images, c = remaining images · budget / remaining tokens. It
takes the c shortest images, exchanges each for the longest one that still fits, and adds the longest images that fit
into the room left over. Every pack thus mixes long and short images. First-fit decreasing takes long images first and
leaves the short ones for the end, where the image limit closes packs half empty. Both ways of rounding c are tried,
and the one that needs fewer packs wins.

`balanced` instead makes a given number of packs of nearly equal size, for workers that run side by side.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import ImageError

Int64 = npt.NDArray[np.int64]

UNEVEN = 1.1
"""Packs count as nearly equal while the fullest has at most this multiple of their mean. Beyond that, waiting for the
fullest pack would cost more than running each pack on all cores."""

# A pattern, as pairs of (index into the distinct lengths, copies in a pack), and the number of packs that use it.
_Pattern = tuple[list[tuple[int, int]], int]


def smallest_budget(tokens: int, budgets: Sequence[int]) -> int:
    """The smallest budget of at least ``tokens`` tokens.

    Raises:
        ImageError: No budget is large enough.
    """
    fitting = [budget for budget in budgets if budget >= tokens]
    if not fitting:
        raise ImageError(
            f"expected at most {max(budgets)} tokens, found {tokens}",
            hint='add a larger budget to the profile, or set image.oversize = "shrink"',
        )
    return min(fitting)


def pack_lengths(lengths: Sequence[int] | npt.NDArray[np.integer], budget: int, max_images: int) -> list[Int64]:
    """Distribute images over few packs. The same input always gives the same packs.

    Args:
        lengths: [N] numbers of tokens of the images, prefix tokens included.
        budget: Maximum number of tokens per pack.
        max_images: Maximum number of images per pack.

    Returns:
        For each pack, the indices of its images in ascending order. Every index is in exactly one pack.

    Raises:
        ImageError: An image is longer than the budget.
    """
    tokens = _checked(lengths, budget, max_images)
    if not len(tokens):
        return []
    sizes, place, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    enough = max(-(-int(tokens.sum()) // budget), -(-len(tokens) // max_images))
    best: list[_Pattern] = []
    packs = len(tokens) + 1
    for share in (math.floor, math.ceil):
        patterns = _patterns(sizes.tolist(), counts.tolist(), budget, max_images, share)
        found = sum(repeats for _, repeats in patterns)
        if found < packs:
            best, packs = patterns, found
        if packs == enough:
            break
    return _assign(best, packs, place.reshape(-1), counts)


def _checked(lengths: Sequence[int] | npt.NDArray[np.integer], budget: int, max_images: int) -> Int64:
    if budget < 1 or max_images < 1:
        raise ValueError(f"expected a budget and an image limit of at least 1, found {budget} and {max_images}")
    tokens = np.asarray(lengths, np.int64).reshape(-1)
    if len(tokens) and tokens.min() < 1:
        raise ValueError(f"image {tokens.argmin()}: expected at least 1 token, found {tokens.min()}")
    if len(tokens) and tokens.max() > budget:
        index = int(np.argmax(tokens > budget))
        raise ImageError(
            f"image {index}: expected at most {budget} tokens, the budget of a pack, found {tokens[index]}",
            hint='use a larger budget, or set image.oversize = "shrink"',
        )
    return tokens


def _patterns(
    sizes: list[int], counts: list[int], budget: int, max_images: int, share: Callable[[float], int]
) -> list[_Pattern]:
    """Patterns that use up ``counts[i]`` images of ``sizes[i]`` tokens (ascending)."""
    names = list(range(len(sizes)))
    images = sum(counts)
    tokens = sum(size * count for size, count in zip(sizes, counts, strict=True))
    found: list[_Pattern] = []
    while images:
        fair = min(max_images, share(images * budget / tokens))
        pattern = _pattern(sizes, counts, budget, max_images, fair)
        repeats = min(counts[i] // copies for i, copies in pattern.items())
        found.append(([(names[i], copies) for i, copies in pattern.items()], repeats))
        for i in sorted(pattern, reverse=True):
            used = repeats * pattern[i]
            images -= used
            tokens -= used * sizes[i]
            counts[i] -= used
            if not counts[i]:
                del sizes[i], counts[i], names[i]
    return found


def _pattern(sizes: list[int], counts: list[int], budget: int, max_images: int, fair: int) -> dict[int, int]:
    """One pack: copies by index into ``sizes``."""
    pack: defaultdict[int, int] = defaultdict(int)
    room = budget
    images = 0
    for i, size in enumerate(sizes):
        copies = min(fair - images, counts[i], room // size)
        if not copies:
            break
        pack[i] = copies
        room -= copies * size
        images += copies
    for i in sorted(pack, reverse=True):
        while pack[i] and (j := _longest(sizes, counts, pack, sizes[i] + room)) > i:
            gain = sizes[j] - sizes[i]
            copies = min(pack[i], counts[j] - pack[j], room // gain)
            pack[i] -= copies
            pack[j] += copies
            room -= copies * gain
    while images < max_images and (j := _longest(sizes, counts, pack, room)) >= 0:
        copies = min(max_images - images, counts[j] - pack[j], room // sizes[j])
        pack[j] += copies
        room -= copies * sizes[j]
        images += copies
    return {i: copies for i, copies in pack.items() if copies}


def _longest(sizes: list[int], counts: list[int], pack: dict[int, int], limit: int) -> int:
    """Index of the longest size up to ``limit`` of which images are left over; -1 if there is none."""
    j = bisect_right(sizes, limit) - 1
    while j >= 0 and counts[j] == pack[j]:
        j -= 1
    return j


def _assign(patterns: list[_Pattern], packs: int, place: Int64, counts: Int64) -> list[Int64]:
    """Assign each image, in order, to the next place that the patterns have for its length."""
    table = np.array(
        [(i, copies, repeats) for pattern, repeats in patterns for i, copies in pattern], np.int64
    ).reshape(-1, 3)
    first = np.cumsum([0] + [repeats for _, repeats in patterns[:-1]])
    first = np.repeat(first, [len(pattern) for pattern, _ in patterns])
    by_size = np.argsort(table[:, 0], kind="stable")
    _, copies, repeats = table[by_size].T
    uses = copies * repeats
    row = np.repeat(np.arange(len(uses)), uses)
    nth = np.arange(len(place)) - np.repeat(np.cumsum(uses) - uses, uses)
    pack_of = np.empty(len(place), np.int64)
    pack_of[np.argsort(place, kind="stable")] = first[by_size][row] + nth // copies[row]
    order = np.argsort(pack_of, kind="stable")
    ends = np.cumsum(np.bincount(pack_of, minlength=packs)).tolist()
    return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def lower_bound(lengths: Sequence[int] | npt.NDArray[np.integer], budget: int, max_images: int) -> int:
    """A lower bound on the number of packs of any packing: the largest of three bounds.

    Raises:
        ImageError: An image is longer than the budget.
    """
    tokens = np.sort(_checked(lengths, budget, max_images))
    if not len(tokens):
        return 0
    bounds = (
        _linear_bound(tokens, budget, max_images),
        _crowding_bound(tokens, budget, max_images),
        _big_item_bound(tokens, budget, max_images),
    )
    return math.ceil(max(bounds) * (1 - 1e-12))


def _linear_bound(tokens: Int64, budget: int, max_images: int) -> float:
    """Price of all images over the price of the dearest pack, at prices ``a`` per token and ``b`` per image.

    The bound covers total tokens / budget and images / max_images, and is sharper where lengths do not add up to
    the budget: ``fullest[c]`` is the largest number of tokens that fit into a pack of c images. An optimal price is
    the normal of an edge of the hull of (c, fullest[c]), so the normals of all pairs of points are tried.
    """
    sizes = np.unique(tokens).tolist()
    fullest = []
    sums = 1  # bit t: some choice of c images has t tokens
    for _ in range(max_images):
        shifted = 0
        for size in sizes:
            shifted |= sums << size
        sums = shifted & ((1 << (budget + 1)) - 1)
        if not sums:
            break
        fullest.append(sums.bit_length() - 1)
    most = np.array(fullest, np.float64)
    images = np.arange(1.0, len(most) + 1)
    i, j = np.triu_indices(len(most), 1)
    a = np.concatenate([[1.0, 0.0], images[j] - images[i]])
    b = np.concatenate([[0.0, 1.0], np.maximum(most[i] - most[j], 0)])
    dearest = np.array([np.max(x * most + y * images) for x, y in zip(a, b, strict=True)])
    return float(np.max((a * float(tokens.sum()) + b * len(tokens)) / dearest))


def _crowding_bound(tokens: Int64, budget: int, max_images: int) -> float:
    """A bound from the number of images that are short enough to share a pack with many others.

    Packs of more than m images hold images of mean length ≤ budget / (m+1). These are at most K(m) images, where
    K(m) is the length of the longest ascending prefix with that mean. The fewest packs then put K(c-1) - K(c) images
    into packs of c.
    """
    mean = np.cumsum(tokens) / np.arange(1, len(tokens) + 1)
    crowd = np.arange(1, max_images + 1)
    prefix = np.append(np.searchsorted(mean, budget / crowd, side="right"), 0)
    return float(np.sum(-np.diff(prefix) / crowd))


def _big_item_bound(tokens: Int64, budget: int, max_images: int) -> float:
    """Martello and Toth's L2 ("Knapsack Problems", 1990, 8.3), and its counterpart for the image limit.

    For every k ≤ budget/2, an image longer than budget - k cannot share a pack with one of at least k tokens. Of the
    other images, those above budget/2 need a pack each, and the rest must fit into the room that these leave. The
    counterpart counts images: a long image leaves room for few others, even if they are the shortest ones.
    """
    k = np.arange(budget // 2 + 1)
    total = np.append(0, np.cumsum(tokens))
    halves = int(np.searchsorted(tokens, budget // 2, side="right"))
    start = np.searchsorted(tokens, k, side="left")
    end = np.searchsorted(tokens, budget - k, side="right")
    full = np.ceil((total[end] - total[start]) / budget)
    by_tokens = len(tokens) - end + np.maximum(end - halves, full)
    beside_long = np.minimum(max_images, 1 + (budget - tokens[halves:]) // tokens[0])
    rest = max(0, len(tokens) - int(beside_long.sum()))
    return float(max(by_tokens.max(), len(tokens) - halves + -(-rest // max_images)))


def balanced(lengths: Sequence[int], packs: int, budget: int, max_images: int) -> list[list[int]] | None:
    """Distribute images over packs of nearly equal size: the longest first, each into the emptiest pack.

    Args:
        lengths: Number of tokens of each image.
        packs: Number of packs.
        budget: Maximum number of tokens per pack.
        max_images: Maximum number of images per pack.

    Returns:
        The indices of each pack's images; ``None`` where a pack would overflow, or the packs would not be nearly
        equal.
    """
    found: list[list[int]] = [[] for _ in range(packs)]
    loads = [0] * packs
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        emptiest = loads.index(min(loads))
        found[emptiest].append(index)
        loads[emptiest] += lengths[index]
    if max(loads) > min(budget, UNEVEN * sum(loads) / packs) or max(map(len, found)) > max_images:
        return None
    return found
