from __future__ import annotations

from pathlib import Path

import pytest

import naflex_deploy as nd
from naflex_deploy.core.errors import NaflexError
from naflex_deploy.runtime.bundle.footprint import run_peak


def test_it_measures_a_process_of_its_own(bundle: Path) -> None:
    variant = nd.load(bundle).variant
    ballast = bytearray(600_000_000)
    ballast[::4096] = b"1" * len(ballast[::4096])
    peak = run_peak(bundle, variant, 0)
    # The memory of an interpreter with numpy, pydantic, ONNX Runtime and a tiny model, but without torch or ballast.
    assert 30_000_000 < peak < 400_000_000


def test_a_larger_budget_takes_more_but_nothing_near_its_square(bundle: Path) -> None:
    variant = nd.load(bundle).variant
    small, large = (run_peak(bundle, variant.model_copy(update={"budgets": [budget]}), 0) for budget in (64, 8192))
    assert small < large < small + 8192**2


def test_a_variant_that_does_not_run_says_why(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(NaflexError, match=r"does not run its largest pack: .*model\.onnx"):
        run_peak(tmp_path, nd.load(bundle).variant, 0)
