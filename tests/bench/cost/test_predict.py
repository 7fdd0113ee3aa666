from __future__ import annotations

import numpy as np
import pytest

from naflex_deploy.bench.cost.cost import STEP, CostModel
from naflex_deploy.bench.cost.predict import Packing, Predictor, choose_packing, improved, tuned_profile
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import resolve
from naflex_deploy.core.profile import Profile
from naflex_deploy.core.rows import rows_needed
from naflex_deploy.runtime.packing.packer import pack_lengths

LINEAR = CostModel(0.002, 1e-4, 2e-5, 1e-8)


def lengths(*choices: int, count: int = 96) -> np.ndarray:
    return np.random.default_rng(0).choice(choices, count)


def test_a_prediction_is_the_cost_of_the_packs_that_are_made():
    images = lengths(36, 100, 256)
    packing = Packing((1024,), 16)
    expected = 0.0
    for group in (1, 4, 16, len(images)):
        for start in range(0, len(images), group):
            part = images[start : start + group]
            for pack in pack_lengths(part, 1024, 16):
                own = part[pack]
                expected += 0.002 + 1e-4 * len(own) + 2e-5 * own.sum() + 1e-8 * (own**2).sum()
    assert Predictor(LINEAR, images).seconds(packing) == pytest.approx(expected / len(images) / 4)


def test_an_engine_of_fixed_shape_pays_for_what_it_rounds_up_to():
    images = np.array([100, 300])
    packing = Packing((128, 512), 8)
    found = Predictor(LINEAR, images, "segment").seconds(packing, (1,))
    assert found == pytest.approx(0.002 + 8e-4 + 2e-5 * (128 + 512) / 2 + 1e-8 * (128**2 + 512**2) / 2)
    packed = Predictor(LINEAR, images, "packed").seconds(packing, (1,))
    assert packed == pytest.approx(0.002 + 8e-4 + 2e-5 * 320 + 1e-8 * (100**2 + 300**2) / 2)
    rows = Predictor(LINEAR, np.array([300]), "rows").seconds(Packing((8192,), 8, (256, 512)), (1,))
    assert rows == pytest.approx(0.002 + 8e-4 + 2e-5 * 8192 + 1e-8 * rows_needed(8192, 512) * 512**2)


def test_costly_calls_ask_for_large_packs_and_cheap_ones_for_small():
    images = lengths(36, 100, 256)
    current = Packing((256,), 64)
    dear = choose_packing(Predictor(CostModel(0.05, 0, 2e-5, 0), images), current, least=256, most=8192)
    cheap = choose_packing(Predictor(CostModel(0, 0, 2e-5, 0), images), current, least=256, most=8192)
    assert dear.budgets[-1] >= 4096
    one_image = Predictor(CostModel(0.05, 0, 2e-5, 0), images)
    assert choose_packing(one_image, Packing((256,), 1), least=256, most=8192) == dear, "where packs hold one image now"
    assert cheap.budgets == (256,)
    assert choose_packing(Predictor(LINEAR, images), current, least=300, most=300).budgets[-1] >= 300


def test_a_packing_that_is_not_predicted_to_gain_leaves_the_one_that_there_is():
    images = lengths(36, 100, 256)
    few, many = Packing((256,), 64), Packing((4096,), 64)
    cheap, dear = (Predictor(CostModel(call, 0, 2e-5, 0), images) for call in (0, 0.05))
    assert improved(cheap, many, few) is many, "both take the same"
    assert improved(dear, few, many) is many
    assert improved(dear, many, few) is many


def test_images_a_pack_are_as_few_as_cost_nothing():
    found = choose_packing(
        Predictor(CostModel(0.01, 0, 1e-6, 0), lengths(64)), Packing((1024,), 64), least=1024, most=1024
    )
    assert found.max_images == 16


def test_budgets_lie_where_packs_are():
    """Single images of 100 and of 400 tokens, four, sixteen: small budgets save what is rounded up."""
    images = lengths(100, 400)
    current = Packing((4096,), 64)
    predictor = Predictor(CostModel(1e-4, 0, 2e-5, 0), images, "packed")
    found = choose_packing(predictor, current, least=512, most=4096)
    assert len(found.budgets) > 1
    assert all(budget % STEP == 0 for budget in found.budgets)
    assert predictor.seconds(found) < 0.7 * predictor.seconds(current)
    assert predictor.seconds(found, (1,)) < 0.5 * predictor.seconds(current, (1,))
    alone = choose_packing(Predictor(LINEAR, images), current, least=512, most=4096)
    assert len(alone.budgets) == 1, "packs of any size gain nothing by smaller budgets"


def test_rows_are_as_long_as_images():
    images = lengths(100, 1000, count=200)
    predictor = Predictor(CostModel(0.001, 0, 1e-6, 1e-8), images, "rows")
    current = Packing((16384,), 64, (4096,))
    found = choose_packing(predictor, current, least=16384, most=16384)
    assert found.l_buckets[-1] >= 1000
    assert predictor.seconds(found) < predictor.seconds(current)


@pytest.mark.parametrize("backend", FOLDERS)
def test_the_tuned_profile_is_a_profile_in_which_other_backends_stay_as_they_were(backend):
    profile = resolve("photo").profile
    rows = (128, 256) if FOLDERS[backend] == "tensorrt" else ()
    tuned = tuned_profile(profile, backend, Packing((512, 2048), 16, rows))
    assert tuned.name == "photo-tuned"
    assert tuned.budgets(backend) == (512, 2048)
    assert tuned.max_images(backend) == 16
    again = Profile.parse(tuned.model_dump(by_alias=True, exclude_none=True), source=str)
    assert again == tuned
    for other, folder in FOLDERS.items():
        if folder != FOLDERS[backend]:
            assert tuned.budgets(other) == profile.budgets(other)
            assert tuned.max_images(other) == profile.max_images(other) == 64
    assert (tuned.engine.tensorrt.l_buckets == [128, 256]) == bool(rows)
