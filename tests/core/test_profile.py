"""The meaning of a profile, for any valid profile."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.profile import Profile

POSITIVE = st.integers(1, 10**9)
BUDGETS = st.lists(POSITIVE, min_size=1, max_size=4, unique=True).map(sorted)
BACKENDS = ["tensorrt", "tensorrt-rtx", "onnxruntime"]
OUTPUTS = st.one_of(
    st.sampled_from(["pooled", "tokens", "logits"]), st.integers(1, 40).map(lambda layer: f"tokens:-{layer}")
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any subset of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


PROFILES = st.fixed_dictionaries(
    {"name": st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=9)},
    optional={
        "schema": st.just(1),
        "description": st.text(),
        "outputs": st.lists(OUTPUTS, min_size=1, unique=True),
        "image": some(
            tokens=st.one_of(st.integers(9, 256), st.just("auto")),
            fit=st.sampled_from(["fill", "shrink-only", "pad-to-patch", "tiles"]),
            oversize=st.sampled_from(["error", "shrink", "tiles"]),
            dpi=POSITIVE,
            overlap=st.integers(0, 2),
            max_tiles=POSITIVE,
            max_pixels=POSITIVE,
        ),
        "packing": some(budgets=BUDGETS.map(lambda budgets: [*budgets, 10**9 + 1]), max_images=POSITIVE),
        "engine": some(
            backends=st.lists(st.sampled_from(BACKENDS), min_size=1, unique=True),
            precision=st.sampled_from(["auto", "fp32", "fp16", "bf16", "int8", "fp8"]),
            memory_limit=st.one_of(POSITIVE, st.integers(1, 99).map(lambda number: f"{number} MiB")),
            onnxruntime=some(budgets=BUDGETS.map(lambda budgets: [*budgets, 10**9 + 1])),
            tensorrt=some(l_buckets=BUDGETS, targets=st.lists(st.integers(10, 130).map(lambda number: f"sm{number}"))),
        ),
        "gate": some(min_cosine=st.floats(0, 1, exclude_min=True)),
        "calibration": some(samples=POSITIVE, method=st.sampled_from(["minmax", "percentile", "entropy", "mse"])),
    },
)


def parse(values: dict[str, Any]) -> Profile:
    return Profile.parse(values, source=lambda path: "here")


def covered(values: dict[str, Any], dump: dict[str, Any]) -> bool:
    """Whether every value given is in the dump, byte counts aside."""
    return all(
        covered(value, dump[key]) if isinstance(value, dict) else key == "memory_limit" or dump[key] == value
        for key, value in values.items()
    )


@settings(max_examples=50, deadline=None)
@given(PROFILES)
def test_a_profile_holds_what_was_written_and_survives_being_written_again(values: dict[str, Any]) -> None:
    profile = parse(values)
    assert covered(values, profile.model_dump(by_alias=True))
    assert parse(profile.model_dump(by_alias=True)) == profile
    assert Profile.model_validate_json(profile.model_dump_json(by_alias=True)) == profile


@settings(max_examples=50, deadline=None)
@given(PROFILES, st.sampled_from(["onnxruntime", "tensorrt"]), st.integers(0, 5))
def test_an_image_always_fits_into_the_largest_pack(values: dict[str, Any], backend: str, prefix: int) -> None:
    profile = parse(values)
    assert profile.image_tokens(backend, prefix) + prefix <= max(profile.budgets(backend))


def test_onnxruntime_may_have_budgets_of_its_own() -> None:
    values = {"name": "x", "image": {"tokens": 4}, "packing": {"budgets": [8, 16]}}
    assert parse(values).budgets("onnxruntime") == (8, 16)
    own = parse(values | {"engine": {"onnxruntime": {"budgets": [4]}}})
    assert (own.budgets("onnxruntime"), own.budgets("tensorrt")) == ((4,), (8, 16))


def test_auto_tokens_are_what_the_largest_pack_holds_beside_the_prefix() -> None:
    profile = parse({"name": "x", "image": {"tokens": "auto"}, "packing": {"budgets": [64, 100]}})
    assert profile.image_tokens("onnxruntime", prefix=5) == 95


def test_tiles_are_larger_than_their_overlap() -> None:
    image = {"tokens": 24, "overlap": 4}
    assert parse({"name": "x", "image": image}).image.overlap == 4
    for tiled in ({"fit": "tiles"}, {"oversize": "tiles"}):
        assert parse({"name": "x", "image": image | tiled | {"overlap": 3}}).image.tiled
        with pytest.raises(UsageError, match=r"image\.overlap = 4 leaves nothing of a tile of 4x4 patches"):
            parse({"name": "x", "image": image | tiled})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * 2**30),
        ("512MiB", 2**29),
        ("1.5 KiB", 1536),
        ("2MB", 2_000_000),
        ("3 GB", 3 * 10**9),
        ("12B", 12),
        ("12", 12),
    ],
)
def test_byte_counts(text: str, count: int) -> None:
    assert parse({"name": "x", "engine": {"memory_limit": text}}).engine.memory_limit == count


@pytest.mark.parametrize("text", ["", "8 gib", "GiB", "-1GiB", "8TiB", "8,5GiB", "1e3MB", "9" * 400])
def test_what_is_no_byte_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"engine.memory_limit: expected a number of bytes such as '8GiB'"):
        parse({"name": "x", "engine": {"memory_limit": text}})


@pytest.mark.parametrize("setting", [{"image": {"range": [0, 10**400]}}, {"dicom": {"window": [10**400, 400]}}])
def test_numbers_without_a_float_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected \\["):
        parse({"name": "x", **setting})
