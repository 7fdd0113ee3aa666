"""Image towers inside vision-language models equal the transformers classes, read from the same directory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.model.attention import masked_attention
from naflex_deploy.compiler.model.packed_vit import PackedNaFlexViT
from naflex_deploy.core.pack import Pack, Patches
from tests.support.packs import Recording, inputs, random_images
from tests.support.vlms import VLMS, expected

GRIDS = ((2, 26), (30, 2), (16, 14), (4, 6))
"""Two rows, two columns, above the size of the position tables, below it."""


@pytest.fixture(scope="module", params=VLMS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A family, the directory of its model, and what transformers gives."""
    vlm = VLMS[request.param]
    directory = vlm.save(tmp_path_factory.mktemp(request.param))
    images = random_images(GRIDS, vlm.patch_size)
    return vlm, directory, images, expected(vlm, vlm.load(directory), images)


def run(model: PackedNaFlexViT, images: Sequence[Patches], tail: int = 3) -> dict[str, Tensor]:
    """The outputs of a pack with a tail, without what belongs to the tail."""
    length = sum(map(len, images))
    with torch.inference_mode():
        found = model(*inputs(model, Pack.of(images, tokens=length + tail)))
    side = model.architecture.projector.merge
    return {
        name: values[: length if name.startswith("tokens") else length // side**2] for name, values in found.items()
    }


def test_equals_transformers(case) -> None:
    vlm, directory, images, theirs = case
    recording = Recording(masked_attention)
    checkpoint = read(directory)
    assert checkpoint.family == vlm.title
    ours = run(checkpoint.model(tuple(theirs), recording), images)
    assert min(recording.sigmas) >= 2
    for name, values in theirs.items():
        error = float((ours[name] - values).abs().max() / values.abs().max())
        assert ours[name].shape == values.shape
        assert error <= 1e-5, f"{name}: {error:.1e}"
        print(f"{vlm.kind} {name}: {error:.1e}, σ {min(recording.sigmas):.1f}")


def test_images_of_a_pack_do_not_meet(case) -> None:
    _, directory, images, theirs = case
    model = read(directory).model(tuple(theirs))
    together = run(model, images)
    alone = [run(model, [image], tail=0) for image in images]
    for name, values in together.items():
        rest = torch.cat([part[name] for part in alone])
        assert (values - rest).abs().max() <= 2e-6 * rest.abs().max(), name
