"""Image towers inside vision-language models equal the transformers classes, read from the same directory."""

from __future__ import annotations

import pytest
import torch

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.model.attention import masked_attention
from tests.support.packs import Recording, random_images
from tests.support.vlms import CASES, GRIDS, VLMS, expected, outputs_of, saved


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest):
    """A family, the directory of its model, and what transformers gives."""
    vlm = VLMS[request.param]
    directory = saved(request.param)
    images = random_images(GRIDS, vlm.patch_size)
    return vlm, directory, images, expected(vlm, vlm.load(directory), images)


def test_equals_transformers(case) -> None:
    vlm, directory, images, theirs = case
    recording = Recording(masked_attention)
    checkpoint = read(directory)
    assert checkpoint.family == vlm.title
    ours = outputs_of(checkpoint.model(tuple(theirs), recording), images)
    assert min(recording.sigmas) >= 2
    for name, values in theirs.items():
        error = float((ours[name] - values).abs().max() / values.abs().max())
        assert ours[name].shape == values.shape
        assert error <= 1e-5, f"{name}: {error:.1e}"
        print(f"{vlm.kind} {name}: {error:.1e}, σ {min(recording.sigmas):.1f}")


def test_images_of_a_pack_do_not_meet(case) -> None:
    _, directory, images, theirs = case
    model = read(directory).model(tuple(theirs))
    together = outputs_of(model, images)
    alone = [outputs_of(model, [image], tail=0) for image in images]
    for name, values in together.items():
        rest = torch.cat([part[name] for part in alone])
        assert (values - rest).abs().max() <= 2e-6 * rest.abs().max(), name
