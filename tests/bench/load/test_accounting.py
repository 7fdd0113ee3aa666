from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.bench.load.accounting import allocation, computed, filled_share
from naflex_deploy.bench.load.recording import PackRun, RecordedSession, recorded
from naflex_deploy.core.manifest import InputSpec
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.core.rows import lay_rows, rows_needed
from naflex_deploy.runtime.backends.session import SideBySide
from naflex_deploy.runtime.images.fit import plan_fit
from tests.bench.support import variant
from tests.support.sessions import FormulaSession


def pack(*grids: tuple[int, int], prefix: int = 0, tokens: int | None = None) -> Pack:
    return Pack.of([Patches(np.zeros((h * w, 3), np.uint8), (h, w)) for h, w in grids], prefix=prefix, tokens=tokens)


def run_of(made: Pack) -> PackRun:
    return PackRun(made.grid_hw, made.offsets, made.prefix, made.tokens, 0.0, 1.0)


ATTENTION = {"pass": "attention"}
FIXED = {
    "segment": variant(
        backend="tensorrt", budgets=[16, 64], profiles=[{"tokens": 16, "images": 8}, {"tokens": 64, "images": 8}],
        passes=[{**ATTENTION, "form": "packed", "refused": "no kernels"}, {**ATTENTION, "form": "segment"}],
    ),
    "packed": variant(
        backend="tensorrt", budgets=[16, 64], profiles=[{"tokens": 16, "images": 8}, {"tokens": 64, "images": 8}],
        passes=[{**ATTENTION, "form": "packed"}],
    ),
    "plugin": variant(
        backend="tensorrt", budgets=[64], profiles=[{"tokens": 64, "images": 8}],
        passes=[{**ATTENTION, "form": "plugin"}],
    ),
    "rows": variant(
        backend="tensorrt-rtx", budgets=[16, 64],
        profiles=[
            {"tokens": 16, "images": 8, "rows": 1, "row_tokens": 16},
            {"tokens": 64, "images": 8, "rows": rows_needed(64, 12), "row_tokens": 12},
            {"tokens": 64, "images": 8, "rows": rows_needed(64, 40), "row_tokens": 40},
        ],
        passes=[{**ATTENTION, "form": "rows"}],
    ),
}  # fmt: skip


def test_an_engine_of_any_shape_computes_what_it_is_given():
    assert computed(pack((2, 3), (4, 4)), variant()) == (22, 6**2 + 16**2)
    assert computed(pack((2, 3), tokens=16), variant()) == (16, 36)


def test_an_engine_that_has_images_laid_into_rows_computes_whole_rows():
    """16 and 12 tokens share no row of 16; 10 and 6 do."""
    laid = variant(inputs=[InputSpec(role=Role.PAD_INDEX, dtype="int32", shape=["rows", "row_tokens"])])
    assert computed(pack((4, 4), (3, 4)), laid) == (28, 2 * 16**2)
    assert computed(pack((4, 4), (2, 5), (2, 3)), laid) == (32, 2 * 16**2)


@pytest.mark.parametrize(
    ("form", "grids", "tokens", "scores"),
    [
        ("segment", [(2, 3)], 16, 16**2),
        ("segment", [(2, 3), (4, 4)], 64, 64**2),
        ("packed", [(2, 3), (4, 4)], 64, 6**2 + 16**2),
        ("plugin", [(2, 3), (4, 4)], 64, 6**2 + 16**2),
        ("rows", [(2, 3), (4, 2)], 16, 16**2),
        ("rows", [(3, 4), (3, 4)], 64, rows_needed(64, 12) * 12**2),
        ("rows", [(3, 4), (4, 4)], 64, rows_needed(64, 40) * 40**2),
    ],
)
def test_engines_of_fixed_shape_round_up(form, grids, tokens, scores):
    made = pack(*grids)
    assert computed(made, FIXED[form]) == (tokens, scores)
    if form == "rows":  # as the runtime lays it out
        row = int(np.sqrt(scores / rows_needed(tokens, 12))) if scores != 16**2 else 16
        size = next(p for p in FIXED[form].profiles if p["rows"] * p["row_tokens"] ** 2 == scores)
        laid, _ = lay_rows(made, size["rows"], size["row_tokens"])
        assert laid.size * size["row_tokens"] == scores, row


def test_tokens_of_a_pack_add_up():
    fixed = FIXED["segment"]
    small, large = run_of(pack((2, 3), prefix=1)), run_of(pack((5, 4), (4, 7), prefix=1))
    found = allocation([small, large], fixed, patch_share=0.9)
    assert found.useful == pytest.approx(3 + 0.9 * (6 + 20 + 28))
    assert found.patch_rounding == pytest.approx(0.1 * 54)
    assert found.budget_rounding == 16 - 7
    assert found.pack_tail == 64 - 50
    assert found.allocated == pytest.approx(16 + 64)
    assert found.useful_scores == 7**2 + 21**2 + 29**2
    assert found.scores == 16**2 + 64**2


@given(
    sizes=st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700)), min_size=1, max_size=6),
    policy=st.sampled_from(["fill", "shrink-only", "pad-to-patch"]),
)
def test_the_filled_share_is_what_is_left_of_an_image_scaled_in_both_directions_alike(sizes, policy):
    grids, filled, total = [], 0.0, 0
    for width, height in sizes:
        fit = plan_fit((height, width), patch_size=16, tokens=64, policy=policy)
        grids.append(fit.grid_hw)
        scale = 1e-6 if policy == "fill" else 1.0
        most = max(fit.grid_hw) * 16 / 1.0
        low, high = 0.0, most if policy == "fill" else 1.0
        for _ in range(80):  # Search for the largest scale at which the image fits its grid.
            scale = (low + high) / 2
            inside = width * scale <= fit.grid_hw[1] * 16 and height * scale <= fit.grid_hw[0] * 16
            low, high = (scale, high) if inside else (low, scale)
        filled += width * height * scale**2 / 256
        total += fit.tokens
    found = filled_share(sizes, grids, 16, enlarged=policy == "fill")
    assert found == pytest.approx(filled / total, rel=1e-6)
    assert 0 < found <= 1 + 1e-9


class Workers(FormulaSession):
    workers = 2
    worker_is_loaded = False

    def worker(self):
        self.worker_is_loaded = True
        return FormulaSession()


def test_a_recorded_session_does_what_the_session_does():
    runs: list[PackRun] = []
    plain, several = recorded(FormulaSession(0.01), runs.append), recorded(Workers(), runs.append)
    assert not isinstance(plain, SideBySide)
    assert isinstance(several, SideBySide)
    assert not several.worker_is_loaded
    made = pack((2, 3), (1, 2), prefix=1, tokens=16)
    found = plain.run(made, ("pooled",))
    np.testing.assert_array_equal(found["pooled"], FormulaSession().run(made, ("pooled",))["pooled"])
    worker = several.worker()
    assert isinstance(worker, RecordedSession)
    assert several.worker_is_loaded
    worker.run(made, ("pooled",))
    assert [run.tokens for run in runs] == [16, 16]
    assert runs[0].lengths.tolist() == [7, 3]
    assert runs[0].seconds >= 0.01
    assert runs[0].shape.useful_tokens == 10
