import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.errors import ImageError
from naflex_deploy.runtime.packing.packer import UNEVEN, balanced, lower_bound, pack_lengths, smallest_budget


@st.composite
def problems(draw):
    budget = draw(st.integers(1, 300))
    few = draw(st.lists(st.integers(1, budget), min_size=1, max_size=5))
    lengths = draw(st.lists(st.one_of(st.integers(1, budget), st.sampled_from(few)), max_size=80))
    return lengths, budget, draw(st.integers(1, 12))


@settings(max_examples=500, deadline=None)
@given(problems())
def test_every_image_is_in_one_pack_and_no_limit_is_exceeded(problem):
    lengths, budget, max_images = problem
    packs = pack_lengths(lengths, budget, max_images)
    assert sorted(np.concatenate([*packs, []]).tolist()) == list(range(len(lengths)))
    for pack in packs:
        assert 1 <= len(pack) <= max_images
        assert np.array(lengths)[pack].sum() <= budget
        assert (np.diff(pack) > 0).all()
    assert len(packs) >= lower_bound(lengths, budget, max_images)
    again = pack_lengths(np.array(lengths, np.int32), budget, max_images)
    assert [pack.tolist() for pack in packs] == [pack.tolist() for pack in again]


def fewest_packs(lengths, budget, max_images):
    """By exhaustion: put each image into each pack begun so far, or a new one."""
    best = len(lengths)

    def place(index, packs):
        nonlocal best
        if len(packs) >= best and index < len(lengths):
            return
        if index == len(lengths):
            best = min(best, len(packs))
            return
        length = lengths[index]
        for number, (tokens, images) in enumerate(packs):
            if tokens + length <= budget and images < max_images:
                place(index + 1, [*packs[:number], (tokens + length, images + 1), *packs[number + 1 :]])
        place(index + 1, [*packs, (length, 1)])

    place(0, [])
    return best


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(30, 60), st.integers(1, 4))
def test_bound_never_exceeds_the_optimum(lengths, budget, max_images):
    optimum = fewest_packs(lengths, budget, max_images)
    assert lower_bound(lengths, budget, max_images) <= optimum
    assert optimum <= len(pack_lengths(lengths, budget, max_images))


def photo_tokens(random, count):
    """Patches of photos of common and cropped aspects, about 256 each."""
    aspect = random.choice([1, 4 / 3, 3 / 2, 16 / 9], count) * np.exp(random.normal(0, 0.1, count))
    rows = np.ceil(16 / np.sqrt(aspect))
    return (rows * (256 // rows)).astype(int)


def mixtures(count):
    """Name → lengths, budget, max_images, least share of the bound."""
    random = np.random.default_rng(7)
    heavy = 36 * (1 + random.pareto(1.1, count))
    yield "uniform", random.integers(36, 257, count), 4096, 64
    for share, (budget, limit) in itertools.product((0.1, 0.5, 0.9), ((4096, 64), (1024, 8))):
        yield f"bimodal {share}", np.where(random.random(count) < share, 36, 256), budget, limit
    yield "tiny", random.integers(1, 17, count), 4096, 64
    yield "heavy tail", heavy.clip(1, 4096).astype(int), 4096, 64
    yield "heavy tail, images bind", heavy.clip(1, 16384).astype(int), 16384, 64
    yield "photos", photo_tokens(random, count), 4096, 64
    for budget in (1024, 4096, 16384):
        yield "documents", random.integers(256, 1025, count), budget, 64
    yield "just over half", random.integers(2049, 2200, count), 4096, 64
    yield (
        "half over half",
        np.append(random.integers(2049, 2200, count // 2), random.integers(36, 2047, count // 2)),
        4096,
        64,
    )
    yield "just over a third", random.integers(1366, 1500, count), 4096, 64


@pytest.mark.parametrize("mixture", list(mixtures(20_000)), ids=lambda mixture: f"{mixture[0]}-{mixture[2]}")
def test_packs_are_at_least_99_percent_of_the_bound(mixture):
    _, lengths, budget, max_images = mixture
    assert lower_bound(lengths, budget, max_images) >= 0.99 * len(pack_lengths(lengths, budget, max_images))


def test_flexible_lengths_fill_packs():
    lengths = np.random.default_rng(1).integers(36, 257, 20_000)
    assert lengths.sum() >= 0.98 * 4096 * len(pack_lengths(lengths, 4096, 64))


@pytest.mark.parametrize(
    ("lengths", "budget", "max_images", "packs"),
    [
        ([51] * 10, 100, 8, 10),  # two do not fit
        ([34] * 10, 100, 8, 5),  # three do not fit
        ([1] * 10, 100, 3, 4),  # the image limit binds
        ([100] * 3 + [1] * 6, 100, 3, 5),  # full packs take no further image
        ([60] * 4 + [30] * 4, 100, 8, 4),
        ([256] * 100 + [36] * 100, 1024, 8, 30),  # the linear program's optimum: (3, 5) and (4, 0)
        ([7], 7, 1, 1),
        ([], 7, 1, 0),
    ],
)
def test_bound_and_packs_meet(lengths, budget, max_images, packs):
    assert lower_bound(lengths, budget, max_images) == packs
    assert len(pack_lengths(lengths, budget, max_images)) == packs


def test_an_image_above_the_budget_is_named():
    for function in (pack_lengths, lower_bound):
        with pytest.raises(ImageError, match="image 2: expected at most 100 tokens, the budget of a pack, found 101"):
            function([100, 3, 101, 200], 100, 4)


@pytest.mark.parametrize(
    ("lengths", "budget", "max_images", "message"),
    [
        ([3, 0], 9, 9, "image 1: expected at least 1 token, found 0"),
        ([3], 0, 9, "expected a budget and an image limit of at least 1, found 0 and 9"),
        ([3], 9, 0, "expected a budget and an image limit of at least 1, found 9 and 0"),
    ],
)
def test_nonsense_is_refused(lengths, budget, max_images, message):
    with pytest.raises(ValueError, match=message):
        pack_lengths(lengths, budget, max_images)


def test_smallest_budget():
    assert [smallest_budget(tokens, [4096, 256, 1024]) for tokens in (1, 256, 257, 4096)] == [256, 256, 1024, 4096]
    with pytest.raises(ImageError, match="expected at most 1024 tokens, found 1025"):
        smallest_budget(1025, [256, 1024])


@given(
    lengths=st.lists(st.integers(1, 100), max_size=60),
    packs=st.integers(1, 8),
    budget=st.integers(1, 500),
    max_images=st.integers(1, 20),
)
def test_balanced_packs_hold_everything_within_their_limits(lengths, packs, budget, max_images):
    found = balanced(lengths, packs, budget, max_images)
    if found is None:
        return
    assert len(found) == packs
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in one) for one in found]
    assert max(loads) <= min(budget, UNEVEN * sum(lengths) / packs)
    assert max(map(len, found)) <= max_images


def test_equal_images_are_divided_where_they_divide():
    assert sorted(map(len, balanced([36] * 28, 4, 1024, 64) or [])) == [7] * 4
    assert balanced([256] * 3, 2, 1024, 64) is None
    assert balanced([1024], 2, 1024, 64) is None
