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
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.bundle.golden import Golden, GoldenPack, Tolerance, measure

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
            values = np.full((rows, 8), 1e9, np.float32)  # arbitrary values, as in the tail of an engine
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
    assert re.fullmatch(reason, gate.reason.split("; ")[0])


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


def of_images(tolerance: Tolerance) -> Golden:
    """The same packs, the second of real images, one of them labelled."""
    drawn, real = a_golden().packs
    logits = np.array([[1.0, 0.2, 0.0]], np.float32)
    pack = GoldenPack(real.pack, {**real.reference, "logits": logits}, np.array([0]))
    return Golden([drawn, pack], {"int8": tolerance})


class Logits(Replay):
    """Other logits."""

    def __init__(self, golden: Golden, logits: list[float]) -> None:
        super().__init__(golden)
        self.logits = logits

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        found = super().run(pack, [name for name in outputs if name != "logits"])
        return {**found, "logits": np.array([self.logits], np.float32)} if "logits" in outputs else found


def test_eight_bits_are_judged_by_real_images_alone() -> None:
    golden = of_images(Tolerance(0.99, 0.99, images=True))

    class Noise(Logits):
        """Wrong on what was drawn."""

        def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
            found = super().run(pack, outputs)
            if pack is golden.packs[0].pack:
                found["pooled"] = -found["pooled"]
            return found

    gate = measure(Noise(golden, [1, 0.2, 0]), golden, "int8", HERE)
    assert gate.status == "passed"
    assert gate.figures["images"] == 1
    drawn_alone = Golden(golden.packs[:1], golden.tolerances)
    assert measure(Noise(drawn_alone, []), drawn_alone, "int8", HERE).status == "failed"


@pytest.mark.parametrize(
    ("logits", "tolerance", "reason"),
    [
        ([0, 1, 0], {"top1": 0.5}, r"top-1 agreement 0\.000000 is below 0\.5"),
        ([2, 0.2, 0], {"margin": 0.5}, r"logit margin error 1\.2500 is above 0\.5"),
        ([0, 1, 0], {"accuracy": 0.5}, r"accuracy 0\.0000 is 1\.0000 below float32, more than 0\.5"),
    ],
)
def test_decisions_are_judged(logits: list[float], tolerance: dict[str, float], reason: str) -> None:
    golden = of_images(Tolerance(0.99, 0.99, images=True, **({"top1": 0.0} | tolerance)))
    gate = measure(Logits(golden, logits), golden, "int8", HERE)
    assert gate.status == "failed"
    assert re.fullmatch(reason, gate.reason)
    assert measure(Logits(golden, [1, 0.2, 0]), golden, "int8", HERE).status == "passed"


def test_labels_survive_being_written(tmp_path: Path) -> None:
    golden = of_images(Tolerance(0.99, 0.99, top1=0.9, margin=0.1, accuracy=0.01, images=True))
    golden.write(tmp_path / "golden.npz")
    found = Golden.read(tmp_path / "golden.npz")
    assert found.tolerances == golden.tolerances
    assert found.packs[0].labels is None
    assert found.packs[1].labels is not None
    assert found.packs[1].labels.tolist() == [0]
