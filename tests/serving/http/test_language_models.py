"""Tokens for language models through the Open Inference Protocol, as the public tritonclient gets them."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from naflex_deploy.core.manifest import OutputSpec
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.sizing import SmartResize, SmartTiles
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from naflex_deploy.serving.http.models import Model
from tests.serving.support import pixels, png, running
from tests.support.bundles import PATCH, summing_manifest

WIDTH = 5
TAPS = 2
WHOLE = SmartResize(min_pixels=8 * 8, max_pixels=16 * 16, short="block", aspect=None)
TILES = SmartTiles(whole=WHOLE, large=400, tile=16, min_tiles=2, max_tiles=4)
NAMES = ("vlm", *(f"deepstack:{k}" for k in range(TAPS)))


class BlockSession:
    """Sums each block of 2×2 patches; its first value is that sum, its second the number of the output.

    Args:
        scale: Of the sums.
    """

    def __init__(self, scale: float = 1e-3) -> None:
        self.scale = scale
        self.packs: list[int] = []

    def run(self, pack, outputs):
        self.packs.append(pack.images)
        sums = [grid.sum(-1) for grid in pack.split(pack.patches.astype(np.float64))]
        blocks = [g.reshape(g.shape[0] // 2, 2, g.shape[1] // 2, 2).sum((1, 3)).reshape(-1) for g in sums]
        rows = np.concatenate(blocks)
        found = {}
        for index, name in enumerate(NAMES):
            found[name] = np.zeros((len(rows), WIDTH), np.float32)
            found[name][:, 0], found[name][:, 1] = rows * self.scale, index
        return {name: found[name] for name in outputs}


def model(name: str, session: BlockSession) -> Model:
    base = summing_manifest()
    outputs = [OutputSpec(name=output, dtype="float32", shape=["tokens/4", WIDTH]) for output in NAMES]
    variant = base.variants[0].model_copy(update={"outputs": outputs})
    image = base.config.image.model_copy(update={"fit": "model"})
    preprocessing = Preprocessing(patch_size=PATCH, merge=2, sizing=TILES)
    manifest = base.model_copy(
        update={
            "preprocessing": preprocessing,
            "variants": [variant],
            "config": base.config.model_copy(update={"image": image}),
        }
    )
    scheduler = Scheduler(session, budget=64, max_images=32)
    return Model(name, manifest, variant, scheduler, Preparer.of(manifest, variant))


@pytest.fixture(scope="module")
def sessions():
    return {"vlm": BlockSession(), "loud": BlockSession(scale=10.0)}


@pytest.fixture(scope="module")
def client(sessions):
    with (
        running(names=("vlm", "loud"), load=lambda name, path: model(name, sessions[name])) as server,
        triton.InferenceServerClient(server.url.removeprefix("http://")) as found,
    ):
        yield found


def ask(client, images, names, bundle="vlm", **parameters):
    tensor = triton.InferInput("images", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array([png(image) for image in images], object))
    outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in names]
    for output in outputs:
        output._parameters.update(parameters)
    return client.infer(bundle, [tensor], outputs=outputs)


def sums(image):
    """Of each block of 8×8 pixels."""
    h, w = image.shape[0] // 8, image.shape[1] // 8
    return image.astype(np.float64).reshape(h, 8, w, 8, 3).sum((1, 3, 4)).reshape(-1) * 1e-3


def test_metadata(client):
    found = client.get_model_metadata("vlm")["outputs"]
    assert [(t["name"], t["datatype"], t["shape"]) for t in found] == [
        ("vlm", "FP16", [-1, 5]),
        ("deepstack:0", "FP16", [-1, 5]),
        ("deepstack:1", "FP16", [-1, 5]),
        ("grid_hw", "INT32", [-1, 2]),
        ("image_embeds", "FP16", [-1, 15]),
        ("image_grid_thw", "INT64", [-1, 3]),
    ]


def test_several_images_of_a_request_share_a_pack(client, sessions):
    images = [pixels(0, 8, 16), pixels(1, 16, 16), pixels(2, 16, 8)]
    before = len(sessions["vlm"].packs)
    found = ask(client, images, ["image_embeds", "image_grid_thw", "vlm", "grid_hw"])
    assert sessions["vlm"].packs[before:] == [3]
    embeds, grids = found.as_numpy("image_embeds"), found.as_numpy("image_grid_thw")
    assert embeds.dtype == np.float16
    assert grids.dtype == np.int64
    assert grids.tolist() == [[1, 2, 4], [1, 4, 4], [1, 4, 2]]
    expected = np.concatenate([sums(image) for image in images])
    np.testing.assert_allclose(embeds[:, 0], expected, rtol=1e-3)
    np.testing.assert_array_equal(embeds[:, [1, 6, 11]], np.tile([0, 1, 2], (len(expected), 1)))
    np.testing.assert_array_equal(found.as_numpy("vlm"), embeds[:, :5])
    assert found.as_numpy("grid_hw").tolist() == [[2, 4], [4, 4], [4, 2]]


def test_tiles_are_given_in_the_order_of_the_language_model(client):
    small, large = pixels(3, 8, 8), pixels(4, 32, 16)
    found = ask(client, [small, large], ["image_embeds", "image_grid_thw"])
    grids = found.as_numpy("image_grid_thw")
    assert grids[:3].tolist() == [[1, 2, 2], [1, 4, 4], [1, 4, 4]]
    assert len(grids) == 4
    rows = found.as_numpy("image_embeds")[:, 0]
    assert len(rows) == grids.prod(1).sum() // 4
    np.testing.assert_allclose(rows[:9], np.concatenate([sums(small), sums(large[:16]), sums(large[16:])]), rtol=1e-3)


def test_values_beyond_half_precision(client):
    image = pixels(5, 16, 16)
    with pytest.raises(InferenceServerException, match="beyond float16"):
        ask(client, [image], ["vlm"], bundle="loud")
    found = ask(client, [image], ["vlm"], bundle="loud", datatype="FP32").as_numpy("vlm")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], sums(image) * 1e4, rtol=1e-6)


def test_other_types_are_refused(client):
    with pytest.raises(InferenceServerException, match="'vlm': expected FP16 or FP32, found 'BF16'"):
        ask(client, [pixels(0, 8, 8)], ["vlm"], datatype="BF16")
    with pytest.raises(InferenceServerException, match="'grid_hw': expected INT32, found 'FP32'"):
        ask(client, [pixels(0, 8, 8)], ["grid_hw"], datatype="FP32")


def test_an_answer_has_each_output_once(client):
    tensor = triton.InferInput("images", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([png(pixels(0, 8, 8))], object))
    found = client.infer("vlm", [tensor]).get_response()["outputs"]
    assert [output["name"] for output in found] == [*NAMES, "grid_hw"]
