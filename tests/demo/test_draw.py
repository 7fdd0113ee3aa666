"""Demo pages: the same seed draws the same pixels, and the shape of a page does not give its kind away."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.demo.draw import KINDS, MAX_SIDE, MIN_SIDE, draw_page, draw_pages

PRINT_DIGEST = """
import hashlib, sys
from naflex_deploy.demo.draw import draw_page
digest = hashlib.sha256(b"".join(draw_page((3, i)).image.tobytes() for i in range(8))).hexdigest()
print(digest, "torch" in sys.modules)
"""


def test_ten_kinds():
    assert len(set(KINDS)) == len(KINDS) == 10


def test_the_same_in_every_process_and_without_torch():
    first, second = (
        subprocess.run([sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert first == second
    assert first[1] == "False"


def test_seeds_draw_different_pages():
    assert len({page.image.tobytes() for page in draw_pages(3, 12)}) == 12


def test_streams_repeat_from_any_index():
    assert list(draw_pages(4, 3))[2].image.tobytes() == draw_page((4, 2)).image.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_kind_draws_at_any_size(kind, seed):
    page = draw_page(seed, kind)
    assert page.kind == kind
    assert page.image.mode == "RGB"
    assert all(MIN_SIDE <= side <= MAX_SIDE for side in page.image.size)
    assert np.asarray(page.image).std() > 3, "a page must not be blank"


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError):
        draw_page(0, "poster")


def test_seeds_choose_all_kinds():
    assert {page.kind for page in draw_pages(3, 80)} == set(KINDS)


def test_aspect_ratios_of_any_two_kinds_overlap():
    """The middle four fifths of the aspect ratios of each kind contain pages of every other kind."""
    aspects = {
        kind: np.array([image.height / image.width for image in (draw_page((5, i), kind).image for i in range(16))])
        for kind in KINDS
    }
    for one, other in combinations(KINDS, 2):
        low, high = np.quantile(aspects[one], [0.1, 0.9])
        inside = (aspects[other] > low) & (aspects[other] < high)
        assert inside.mean() > 0.2, f"{one} and {other} can be told apart by shape"
