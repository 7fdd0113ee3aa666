from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import Executed
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.golden import Golden, GoldenPack, Tolerance, cosine, measure
from naflex_deploy.runtime.sessions import Outputs

HERE = Executed(cpu="c", system="s", runtime="r")


def a_golden(max_error: float | None = None) -> Golden:
    rng = np.random.default_rng(0)
    packs = []
    for grids, tail, prefix in (([(2, 3), (1, 1)], 2, 0), ([(1, 4)], 0, 2)):
        images = [Patches(rng.integers(0, 256, (h * w, 4), dtype=np.uint8), (h, w)) for h, w in grids]
        tokens = sum(len(image) + prefix for image in images)
        pack = Pack.of(images, prefix=prefix, tokens=tokens + tail)
        reference = {
            "tokens": rng.standard_normal((tokens, 8), np.float32),
            "pooled": rng.standard_normal((len(images), 8), np.float32),
        }
        packs.append(GoldenPack(pack, reference))
    return Golden(packs, {"fp32": Tolerance(0.999, 0.99, max_error)})


class Replay:
    """Returns the references, changed in one output."""

    def __init__(self, golden: Golden, output: str = "", change: float | np.ndarray = 0.0) -> None:
        self.references = {id(item.pack): item.reference for item in golden.packs}
        self.output, self.change = output, change

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        found: Outputs = {}
        for name in outputs:
            rows = pack.tokens if name.startswith("tokens") else pack.images
            values = np.full((rows, 8), 1e9, np.float32)  # whatever an engine has in the tail
            reference = self.references[id(pack)][name]
            values[: len(reference)] = reference + (self.change if name == self.output else 0)
            found[name] = values
        return found


def test_it_survives_being_written(tmp_path: Path) -> None:
    golden = a_golden(1e-5)
    golden.write(tmp_path / "golden.npz")
    found = Golden.read(tmp_path / "golden.npz")
    assert found.tolerances == golden.tolerances
    for ours, theirs in zip(found.packs, golden.packs, strict=True):
        assert (ours.pack.prefix, ours.pack.tokens) == (theirs.pack.prefix, theirs.pack.tokens)
        assert np.array_equal(ours.pack.patches, theirs.pack.patches)
        assert np.array_equal(ours.pack.grid_hw, theirs.pack.grid_hw)
        assert {name: values.tolist() for name, values in ours.reference.items()} == {
            name: values.tolist() for name, values in theirs.reference.items()
        }


@settings(deadline=None)
@given(st.data())
def test_damage_is_an_error_of_ours_or_changes_values_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "golden.npz"
    a_golden().write(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        Golden.read(path)
    except BundleError as error:
        assert "is damaged" in error.message  # noqa: PT017


def test_an_engine_that_gives_the_references_passes() -> None:
    gate = measure(Replay(golden := a_golden(1e-5)), golden, "fp32", HERE)
    assert (gate.status, gate.max_error, gate.reason, gate.executed) == ("passed", 0.0, "", HERE)
    assert gate.min_cosine == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("output", "change", "reason"),
    [
        ("pooled", 0.3, r"pooled cosine 0\.\d+ is below 0\.999"),
        ("tokens", 0.9, r"tokens cosine 0\.\d+ is below 0\.99"),
        ("tokens", 1e-4, r"error \d\.\d+e-0\d of the largest value is above 1e-05"),
        ("pooled", np.nan, "pooled of golden pack 0 holds NaN or infinity"),
        ("tokens", np.inf, "tokens of golden pack 0 holds NaN or infinity"),
    ],
)
def test_an_engine_that_differs_fails_with_the_reason(output: str, change: float, reason: str) -> None:
    golden = a_golden(1e-5)
    gate = measure(Replay(golden, output, change), golden, "fp32", HERE)
    assert gate.status == "failed"
    assert re.fullmatch(reason, gate.reason)


def test_figures_are_the_worst_of_all_packs() -> None:
    golden = a_golden()
    gate = measure(Replay(golden, "pooled", 0.01), golden, "fp32", HERE)
    pairs = [(item.reference["pooled"], item.reference["pooled"] + np.float32(0.01)) for item in golden.packs]
    largest = max(0.01 / np.abs(reference).max() for reference, _ in pairs)
    least = min(
        (a @ b) / np.sqrt((a @ a) * (b @ b))
        for reference, found in pairs
        for a, b in zip(reference, found, strict=True)
    )
    assert gate.status == "passed"
    assert gate.max_error == pytest.approx(largest, rel=1e-4)
    assert gate.min_cosine == pytest.approx(least, abs=1e-7)


def test_cosine_of_zero_rows() -> None:
    zero, one = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert (cosine(zero, zero)[0], cosine(zero, one)[0], cosine(one, 3 * one)[0]) == (1, 0, pytest.approx(1))
