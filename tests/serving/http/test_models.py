"""Loading a bundle for serving, with its own engine or another one."""

from __future__ import annotations

import base64
import math
import time
from dataclasses import replace
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.loading import load_engine
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.scheduling.decoders import Apart
from naflex_deploy.runtime.scheduling.queue import DeadlineError
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from naflex_deploy.serving.client import Client
from naflex_deploy.serving.http.infer import _works
from naflex_deploy.serving.http.limits import Limits
from naflex_deploy.serving.http.models import Model, open_model
from tests.serving.support import SummingSession, pixels, png, running, summing_model, vector
from tests.support.bundles import summing_manifest, write_summing_bundle

IMAGES = [pixels(seed, 4 * (1 + seed % 3), 4 * (1 + seed % 4)) for seed in range(6)]


class Noted(SummingSession):
    """A user's own session, which has only `run`."""

    def __init__(self, path, variant) -> None:
        super().__init__(scale=3.0)
        self.path, self.variant, self.tokens = path, variant, []

    def run(self, pack, outputs):
        self.tokens.append(pack.tokens)
        return super().run(pack, outputs)


@pytest.fixture
def bundle(tmp_path):
    return write_summing_bundle(tmp_path / "sums")


def test_a_session_of_ones_own_is_served(bundle):
    opened: list[Noted] = []

    def session(path, variant) -> Noted:
        opened.append(Noted(path, variant))
        return opened[-1]

    with running(load=lambda name, path: open_model(name, bundle, session=session)) as server:
        assert opened[0].path == bundle
        assert opened[0].variant.name == "onnxruntime-cpu-fp32"
        assert opened[0].tokens == [16, 64], "a pack of each budget warms it up"
        with Client(server.url) as client:
            found = client.embed([*map(png, IMAGES)])
            tokens = client.tokens(IMAGES)
            with pytest.raises(ImageError, match="image 1"):
                client.embed([png(IMAGES[0]), b"no image"])
    expected = [vector(image, 3.0) for image in IMAGES]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([part.sum((0, 1)) for part in tokens], expected, rtol=1e-4, atol=1e-5)


def test_a_session_of_ones_own_runs_in_the_engine(bundle):
    engine = load_engine(bundle, session=Noted)
    np.testing.assert_allclose(engine.embed(IMAGES), [vector(image, 3.0) for image in IMAGES], rtol=1e-4, atol=1e-5)


def test_pages_cut_into_tiles_are_answered_as_one_as_the_engine_does():
    manifest = summing_manifest()
    section = manifest.config.image.model_copy(update={"fit": "tiles", "tokens": 16, "overlap": 1})
    manifest = manifest.model_copy(update={"config": manifest.config.model_copy(update={"image": section})})
    variant = manifest.variants[0]
    engine = Engine(SummingSession(), manifest, variant)
    pages = [pixels(0, 40, 60), pixels(1, 8, 8), pixels(2, 33, 9)]

    def load(name, path):
        scheduler = Scheduler(SummingSession(), budget=64, max_images=32)
        return Model(name, manifest, variant, scheduler, Preparer.of(manifest, variant))

    with running(load=load) as server, Client(server.url) as client:
        found, classes, tokens = client.embed(pages), client.classify(pages), client.tokens(pages)
        with pytest.raises(ImageError, match="image 1"):
            client.embed([png(pages[0]), b"no image"])
    np.testing.assert_allclose(found, engine.embed(pages), rtol=1e-4, atol=1e-5)
    assert [ranked[0].name for ranked in classes] == [ranked[0].name for ranked in engine.classify(pages)]
    for page, expected in zip(tokens, engine.tokens(pages), strict=True):
        np.testing.assert_allclose(page, expected, rtol=1e-4, atol=1e-5)
    assert tokens[0].shape == (10, 15, 8)


def test_a_file_of_two_kinds_is_refused_by_the_kind_that_its_reader_would_take():
    photo = BytesIO()
    Image.fromarray(pixels(0, 16, 16)).save(photo, "JPEG")
    both = photo.getvalue()[:2] + b"\xff\xfe\0\x0b%PDF-1.7\n" + photo.getvalue()[2:]
    with running() as server:
        answer = httpx.post(f"{server.url}/v1/embeddings", files={"image": both}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["type"]) == (422, "bad_image")
        assert "damaged PDF" in answer.json()["error"]["message"]
        for image, message in ((both, "found a PDF document"), (pages(3), "found 2 frames")):
            data = [base64.b64encode(image).decode()]
            tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": data}
            answer = httpx.post(f"{server.url}/v2/models/sums/infer", json={"inputs": [tensor]}, timeout=60)
            assert (answer.status_code, answer.json()["type"]) == (422, "bad_image")
            assert message in answer.json()["message"]


def test_decoding_that_outlives_the_deadline_is_ended():
    """A TIFF is read in another process, which is ended: the thread that waits for it is free."""
    model = summing_model("sums")
    image = pages(1)
    for deadline in (time.monotonic() + 20, math.inf):
        rest = model.work(image, Limits(), deadline)()
        assert isinstance(rest, Apart)
        assert len(rest.rest()) == 16
    rest = model.work(image, Limits(), time.monotonic())()
    with pytest.raises(DeadlineError, match="while the image was decoded"):
        rest.rest()
    assert model.close(5)


def pages(count: int) -> bytes:
    """A TIFF of so many pages."""
    stream = BytesIO()
    first, *others = (Image.fromarray(pixels(seed, 16, 16)) for seed in range(count))
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("fit", "sides", "at_once"),
    [("shrink-only", [64], True), ("shrink-only", [128, 128], False), ("fill", [64], False), ("tiles", [64], False)],
)
def test_only_what_stays_small_is_cut_on_the_event_loop(fit, sides, at_once):
    """A tensor that is enlarged takes milliseconds, during which the server would answer nobody."""
    model = summing_model("sums")
    image = model.manifest.config.image.model_copy(update={"fit": fit})
    config = model.manifest.config.model_copy(update={"image": image})
    model = replace(model, manifest=model.manifest.model_copy(update={"config": config}))
    images = [np.zeros((side, side, 3), np.uint8) for side in sides]
    works = _works(model, images, Limits(), float("inf"))
    assert len(works) == len(images)
    assert all(isinstance(work, Patches) == at_once for work in works)
