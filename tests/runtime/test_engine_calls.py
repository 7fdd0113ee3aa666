"""How images go into the engine's methods, one or several, and how results come out."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import naflex_deploy as nd
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.results.result import Result
from tests.support.tiny import WIDTH

FLOATS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)) / 255
PIXELS = np.rint(FLOATS * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return nd.load(bundle)


@pytest.fixture(scope="module")
def expected(engine: Engine) -> np.ndarray:
    return engine.embed([PIXELS])[0]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    path = tmp_path / "pages.tiff"
    first, *rest = [Image.fromarray(PIXELS[: 8 + 4 * number]) for number in range(3)]
    first.save(path, save_all=True, append_images=rest)
    return path


@pytest.mark.parametrize("form", ["path", "text", "bytes", "array", "picture", "file", "floats", "tensor"])
def test_one_image_gives_one_result(engine: Engine, expected: np.ndarray, tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)

    def image() -> object:
        return {
            "path": path,
            "text": str(path),
            "bytes": path.read_bytes(),
            "array": PIXELS,
            "picture": Image.open(path),
            "file": io.BytesIO(path.read_bytes()),
            "floats": FLOATS,
            "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1),
        }[form]

    np.testing.assert_array_equal(engine.embed(image()), expected)
    np.testing.assert_array_equal(engine.tokens(image()), engine.tokens([PIXELS])[0])
    assert engine.classify(image()) == engine.classify([PIXELS])[0]
    np.testing.assert_array_equal(engine.embed([image(), PIXELS])[0], engine.embed([PIXELS, PIXELS])[0])


def test_patches_and_grey_pixels_are_one_image(engine: Engine) -> None:
    patches = Patches(np.zeros((2, 192), np.uint8), (1, 2))
    for one in (patches, PIXELS[:, :, 0], torch.from_numpy(PIXELS[:, :, 0])):
        assert engine.embed(one).shape == (WIDTH,)
        assert engine.embed([one]).shape == (1, WIDTH)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_have_the_channels_first(engine: Engine, expected: np.ndarray, dtype: torch.dtype) -> None:
    levels = torch.from_numpy(PIXELS).permute(2, 0, 1)
    tensor = levels if dtype == torch.uint8 else (levels.double() / 255).to(dtype).requires_grad_()
    shown = np.rint(tensor.detach().double().numpy() * (1 if dtype == torch.uint8 else 255)).astype(np.uint8)
    np.testing.assert_array_equal(engine.embed(tensor), engine.embed(shown.transpose(1, 2, 0)))
    assert engine.embed(torch.stack([tensor, tensor])).shape == (2, WIDTH)
    if dtype != torch.bfloat16:  # whose 8 bits of mantissa do not hold 256 levels
        np.testing.assert_array_equal(engine.embed(tensor), expected)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.from_numpy(PIXELS), r"channels, found \[20, 30, 3\]"),
        (torch.zeros(3), r"found \[3\]"),
        (FLOATS * 255, r"in 0\.\.1, found 0\.\.255"),
        (FLOATS * 2 - 1, r"in 0\.\.1, found -1\.\.1"),
        (np.where(FLOATS > 0.5, np.nan, FLOATS), r"in 0\.\.1, found nan\.\.nan"),
        ("https://example.org/a.png", "a URL, which is never fetched"),
        (Path("s3://bucket/a.png"), "a URL, which is never fetched"),
        ("data:image/png;base64," + "A" * 5000, "a URL, which is never fetched"),
        ("c:/a.png", "no file of that name"),
    ],
)
def test_what_is_refused_says_what_was_found(engine: Engine, image: object, found: str) -> None:
    with pytest.raises(ImageError, match=found) as caught:
        engine.embed(image)
    assert len(caught.value.message) < 400
    assert caught.value.hint


@pytest.mark.parametrize("nothing", [None, 3])
def test_neither_an_image_nor_several(engine: Engine, nothing: object) -> None:
    for method in (engine.embed, engine.tokens, engine.classify):
        with pytest.raises(UsageError, match="expected an image or a list of images, found <"):
            method(nothing)


def test_each_vector_says_of_which_input_and_page_it_is(engine: Engine, pages: Path) -> None:
    rows = engine.embed([PIXELS, pages, PIXELS], return_index=True)
    np.testing.assert_array_equal(rows.inputs, [0, 1, 1, 1, 2])
    np.testing.assert_array_equal(rows.frames, [0, 0, 1, 2, 0])
    np.testing.assert_array_equal(rows.boxes[:, 2:], [[30, 20], [30, 8], [30, 12], [30, 16], [30, 20]])
    np.testing.assert_allclose(
        rows.vectors, engine.embed([PIXELS, *(PIXELS[:n] for n in (8, 12, 16)), PIXELS]), 1e-5, 1e-5
    )
    assert len(engine.embed(pages, return_index=True)) == 3
    none = engine.embed([], return_index=True)
    assert (none.vectors.shape, none.boxes.shape, len(none)) == ((0, WIDTH), (0, 4), 0)


def test_a_document_alone_is_not_one_image(engine: Engine, pages: Path) -> None:
    for method in (engine.embed, engine.tokens, engine.classify):
        with pytest.raises(UsageError, match=r"pages\.tiff: expected one image, found 3 frames"):
            method(pages)


def test_normalised_vectors_have_the_length_one(engine: Engine, expected: np.ndarray) -> None:
    direction = expected / np.sqrt((expected.astype(np.float64) ** 2).sum())
    np.testing.assert_allclose(engine.embed(PIXELS, normalize=True), direction, 1e-6)
    np.testing.assert_allclose(engine.embed([PIXELS], normalize=True, return_index=True).vectors, [direction], 1e-6)


def test_a_backend_may_hold_fewer_images_in_a_pack_than_others(engine: Engine) -> None:
    def largest(**section: int) -> int:
        settings = [f"engine.{name}.max_images={count}" for name, count in section.items()]
        config = resolve(engine.manifest.config, settings=settings).profile
        manifest = engine.manifest.model_copy(update={"config": config})
        own = Engine(engine._session, manifest, engine.variant)
        return max(Counter(result.pack for result in own.stream([PIXELS] * 9)).values())

    assert (largest(), largest(openvino=1), largest(onnxruntime=2)) == (8, 8, 2)


def test_async_variants_run_beside_each_other(engine: Engine, expected: np.ndarray) -> None:
    async def all_of_them() -> tuple[np.ndarray, ...]:
        return tuple(
            await asyncio.gather(
                engine.aembed(PIXELS), engine.aembed([PIXELS]), engine.atokens(PIXELS), engine.aclassify(PIXELS)
            )
        )

    one, several, tokens, classes = asyncio.run(all_of_them())
    np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(several, [expected])
    np.testing.assert_array_equal(tokens, engine.tokens(PIXELS))
    assert classes == engine.classify(PIXELS)


def test_an_engine_is_closed_at_the_end_of_its_block(bundle: Path) -> None:
    with nd.load(bundle) as engine:
        assert engine.embed(PIXELS).shape == (WIDTH,)
    for call in (lambda: engine.embed(PIXELS), lambda: engine.text, lambda: list(engine.packed([PIXELS]))):
        with pytest.raises(UsageError, match="the engine is closed"):
            call()
    engine.close()


def test_a_stream_in_an_event_loop_gives_the_same_and_can_be_left(engine: Engine) -> None:
    pictures = [np.full((8, 8 + 8 * number, 3), 40 * number, np.uint8) for number in range(5)]
    drawn = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal drawn
        while True:
            drawn += 1
            yield pictures[drawn % 5]

    async def ask() -> tuple[list[Result], int]:
        found = [result async for result in engine.astream(pictures)]
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        async with aclosing(engine.astream(endless())) as results:
            async for result in results:
                assert result.error is None
                break
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(ask())
    by_input = sorted(found, key=lambda result: result.input)
    np.testing.assert_allclose([result.outputs["pooled"] for result in by_input], engine.embed(pictures), rtol=1e-6)
    assert ticks > 1
