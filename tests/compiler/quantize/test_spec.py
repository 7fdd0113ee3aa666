"""A calibration survives being written and read, and any other file is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.spec import SCHEMA, QuantSpec, numbered
from naflex_deploy.compiler.quantize.subject import subject_of
from naflex_deploy.core.errors import CalibrationError
from naflex_deploy.core.profile import Profile
from tests.support.packs import random_images
from tests.support.tiny import tiny_checkpoint, tiny_config


def small_spec(seed: int = 0) -> QuantSpec:
    rng = np.random.default_rng(seed)
    qkv, mlp = (
        SiteObservation.of(scale * rng.standard_normal((50, width)).astype(np.float32))
        for scale, width in ((1, 8), (30, 12))
    )
    return QuantSpec(
        subject=subject_of(tiny_checkpoint(), tiny_config().profile),
        method="percentile",
        seed=seed,
        samples=("ab" * 32, "cd" * 32),
        sites={"blocks.0.query.input": qkv, "blocks.0.key.input": qkv, "blocks.0.mlp.fc1.input": mlp},
        gate_samples=tuple(random_images([(2, 3), (1, 1)], 8, seed)),
        tuning_samples=tuple(random_images([(4, 1)], 8, seed)),
        gate_labels=("page", "receipt"),
        tuning_labels=("form",),
        float_sites=("blocks.0.mlp.fc1.input",),
        coverage={"images": 2},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "calibration.json"
    small_spec().write(path)
    return path


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    spec = small_spec()
    spec.write(tmp_path / "a.json")
    again = QuantSpec.read(tmp_path / "a.json")
    for name in (
        "subject",
        "method",
        "seed",
        "samples",
        "gate_labels",
        "tuning_labels",
        "float_sites",
        "coverage",
        "key",
    ):
        assert getattr(again, name) == getattr(spec, name), name
    assert list(again.sites) == list(spec.sites)
    assert again.sites["blocks.0.query.input"] is again.sites["blocks.0.key.input"]
    for name, seen in spec.sites.items():
        found = again.sites[name]
        assert (found.limit, found.low, found.high) == (seen.limit, seen.low, seen.high)
        for array in ("counts", "channel_low", "channel_high"):
            np.testing.assert_array_equal(getattr(found, array), getattr(seen, array), strict=True)
    for kind in ("gate_samples", "tuning_samples"):
        for found_image, image in zip(getattr(again, kind), getattr(spec, kind), strict=True):
            assert found_image.grid_hw == image.grid_hw
            np.testing.assert_array_equal(found_image.pixels, image.pixels, strict=True)
    again.write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_labels_become_places_among_the_models_classes() -> None:
    assert numbered(("page", "receipt"), ["receipt", "photo"]) == [-1, 0]
    assert numbered((), ["receipt"]) == []


def test_the_key_follows_from_everything_that_ranges_follow_from() -> None:
    spec = small_spec()
    subject = dict(spec.subject)
    changes: list[dict[str, object]] = [
        {"method": "mse"},
        {"seed": 1},
        {"samples": spec.samples[:1]},
        *({"subject": subject | {part: "other"}} for part in ("weights", "architecture", "preprocessing", "image")),
    ]
    keys = {spec.key, *(dataclasses.replace(spec, **change).key for change in changes)}  # type: ignore[arg-type]
    assert len(keys) == 1 + len(changes)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0), cut=st.booleans())
def test_any_damage_is_refused(written: Path, place: int, cut: bool) -> None:
    content = written.read_bytes()
    place %= len(content) - 1  # A file that only lacks the final newline is still complete.
    damaged = written.with_name("damaged.json")
    damaged.write_bytes(content[:place] + (b"" if cut else bytes([content[place] ^ 1]) + content[place + 1 :]))
    with pytest.raises(CalibrationError) as caught:
        QuantSpec.read(damaged)
    assert caught.value.code == 4
    assert str(damaged) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a calibration"),
        ("[]", "expected sites, found none"),
        ('{"schema": 1}', "expected sites, found none"),
        (json.dumps({"schema": SCHEMA + 1, "sites": []}), f"schema {SCHEMA + 1}, expected at most {SCHEMA}"),
        (json.dumps({"schema": 1, "sites": []}), "is damaged: expected the sha256 of its content, found none"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(CalibrationError, match=message):
        QuantSpec.read(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no such file") as caught:
        QuantSpec.read(tmp_path / "calibration.json")
    assert "naflex-deploy calibrate" in caught.value.hint


def test_a_calibration_of_something_else_is_refused_by_what_differs() -> None:
    spec = small_spec()
    checkpoint, profile = tiny_checkpoint(), tiny_config().profile
    spec.check(subject_of(checkpoint, profile))

    def profile_with(**image: object) -> Profile:
        return profile.model_copy(update={"image": profile.image.model_copy(update=image)})

    weights = checkpoint.weights | {"norm.bias": checkpoint.weights["norm.bias"] + 1}
    architecture = dataclasses.replace(checkpoint.architecture, activation="gelu")
    preprocessing = checkpoint.preprocessing.model_copy(update={"resample": "bicubic"})
    subjects = {
        "weights: expected .{12}…, found .{12}… \\(": subject_of(
            dataclasses.replace(checkpoint, weights=weights), profile
        ),
        "architecture.activation: expected gelu, found gelu_tanh \\(": subject_of(
            dataclasses.replace(checkpoint, architecture=architecture), profile
        ),
        "preprocessing.resample: expected bicubic, found bilinear \\(": subject_of(
            dataclasses.replace(checkpoint, preprocessing=preprocessing), profile
        ),
        "image.tokens: expected 100, found 200; image.fit: expected fill, found shrink-only \\(": subject_of(
            checkpoint, profile_with(tokens=100, fit="fill")
        ),
    }
    for message, subject in subjects.items():
        with pytest.raises(CalibrationError, match=message) as caught:
            spec.check(subject)
        assert caught.value.code == 4


def test_budgets_do_not_matter_as_images_do_not_see_each_other() -> None:
    profile = tiny_config().profile
    packing = profile.packing.model_copy(update={"budgets": [64], "max_images": 1})
    small_spec().check(subject_of(tiny_checkpoint(), profile.model_copy(update={"packing": packing})))
