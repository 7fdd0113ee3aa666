"""Baselines for packing give the same results where they must, and really run the tokens that they claim."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from naflex_deploy.bench.compare.baselines import BASELINES, baseline, rounded, with_config
from naflex_deploy.bench.compare.contenders import (
    ONE_BY_ONE,
    TOGETHER,
    ablations,
    compare_engines,
    engine_of,
    with_baseline,
)
from naflex_deploy.bench.load.mixes import Mix
from naflex_deploy.bench.load.recording import PackRun, recorded
from naflex_deploy.bench.load.subject import open_subject, sound
from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.runtime.engine import Engine
from tests.serving.support import SummingSession, pixels, png, vector
from tests.support.bundles import summing_manifest, write_summing_bundle

SIZES = [(8, 12), (16, 4), (4, 4), (12, 16), (8, 8), (16, 16)]  # 6, 4, 1, 12, 4, 16 tokens
IMAGES = [pixels(seed, *size) for seed, size in enumerate(SIZES)]


def run_baseline(name: str) -> tuple[np.ndarray, list[PackRun]]:
    manifest, runs = summing_manifest(), []
    engine = baseline(name, recorded(SummingSession(), runs.append), manifest, manifest.variants[0], longest=16)
    return engine.embed(IMAGES), runs


@pytest.mark.parametrize("name", ["padded", "one-at-a-time"])
def test_what_computes_the_same_gives_the_same(name):
    found, _ = run_baseline(name)
    np.testing.assert_allclose(found, np.stack([vector(image) for image in IMAGES]), rtol=1e-4, atol=1e-4)


def test_tokens_of_padded_images_are_their_own():
    manifest = summing_manifest()
    padded = baseline("padded", SummingSession(), manifest, manifest.variants[0], longest=16)
    plain = Engine(SummingSession(), manifest, manifest.variants[0])
    for found, expected in zip(padded.tokens(IMAGES), plain.tokens(IMAGES), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_padded_runs_the_longest_image_for_every_image():
    _, runs = run_baseline("padded")
    assert sorted((len(run.lengths), run.tokens) for run in runs) == [(2, 32), (4, 64)]


def test_one_at_a_time_runs_one_image_a_pack():
    _, runs = run_baseline("one-at-a-time")
    assert sorted(run.tokens for run in runs) == [1, 4, 4, 6, 12, 16]


def test_square_runs_the_largest_square_for_every_image():
    _, runs = run_baseline("square")
    assert all((run.grid_hw == 4).all() for run in runs)
    assert sum(len(run.lengths) for run in runs) == len(IMAGES)


def test_unknown_baseline():
    manifest = summing_manifest()
    with pytest.raises(UsageError, match="no baseline named 'none'"):
        baseline("none", SummingSession(), manifest, manifest.variants[0], 16)


@pytest.mark.parametrize(("budgets", "tokens"), [((16, 64), 16), ((64,), 64)])
def test_rounding_fills_packs_up_to_a_budget_without_changing_results(budgets, tokens):
    runs: list[PackRun] = []
    manifest = summing_manifest()
    engine = Engine(rounded(recorded(SummingSession(), runs.append), budgets), manifest, manifest.variants[0])
    np.testing.assert_allclose(engine.embed(IMAGES[:1])[0], vector(IMAGES[0]), rtol=1e-4)
    assert [run.tokens for run in runs] == [tokens]


def test_another_profile_value_is_validated_in_its_place():
    assert with_config(summing_manifest(), "image", fit="fill").config.image.fit == "fill"


def test_fill_against_shrink_only_changes_the_tokens(tmp_path):
    path = write_summing_bundle(tmp_path)
    pairs = ablations(2)
    assert set(pairs) == {("shrink-only", "fill"), ("2 budgets", "one budget")}
    assert set(ablations(1)) == {("shrink-only", "fill")}
    for build, tokens in zip(pairs["shrink-only", "fill"], (1, 16), strict=True):
        (result,) = engine_of(path, None, build)().stream([IMAGES[2]])
        assert result.grid_hw[0] * result.grid_hw[1] == tokens


def mix(*files: bytes) -> Mix:
    return Mix("files", "", files, tuple(f"{number}.png" for number in range(len(files))))


def test_a_subject_is_the_bundle_as_its_user_has_it(tmp_path):
    subject = open_subject(write_summing_bundle(tmp_path))
    np.testing.assert_allclose(subject.engine.embed(IMAGES)[0], vector(IMAGES[0]), rtol=1e-4)
    runs = subject.take_runs()
    assert sum(int(run.lengths.sum()) for run in runs) == 43
    assert subject.take_runs() == []
    sources, prepared, rejected = sound(subject, mix(b"no image", png(IMAGES[0]), png(IMAGES[3])))
    assert len(sources) == 2
    assert [image.result.input for image in prepared] == [0, 1]
    assert [(result.input, result.name) for result in rejected] == [(0, "0.png")]
    with pytest.raises(UsageError, match="none of 1 images can be measured"):
        sound(subject, mix(b"no image"))


def test_engines_are_compared_at_both_workloads(tmp_path):
    path = write_summing_bundle(tmp_path)
    compare = partial(compare_engines, sources=[png(image) for image in IMAGES[:2]], width=1e-9, seconds=0.01)
    same = compare(("packed", engine_of(path)), ("one-at-a-time", engine_of(path, None, with_baseline("padded", 16))))
    assert same.least_cosine == pytest.approx(1, abs=1e-6)
    assert {ratio.workload for ratio in same.ratios} == {ONE_BY_ONE, TOGETHER}
    assert all(ratio.sittings >= 8 for ratio in same.ratios)
    assert same.throughput.requests == 1
    square = ("square", engine_of(path, None, with_baseline("square", 16)))
    with pytest.raises(NaflexError, match="square gives other results: expected a cosine of at least"):
        compare(("packed", engine_of(path)), square, same=True)


def test_baselines_are_those_of_the_command_line():
    assert BASELINES == ("padded", "square", "one-at-a-time")
