"""Each image gets its own result, in order, whatever images share its pack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

import naflex_deploy as nd
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.onnxruntime.session import OnnxRuntimeSession
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.packing.pack_stream import WINDOW
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result, by_frame
from tests.support.manifests import a_manifest, a_variant
from tests.support.tiny import BUDGET, CLASSES, WIDTH

OUTPUTS = ("pooled", "tokens", "logits")
SIZES = ((8, 8), (7, 3), (16, 40), (90, 24), (8, 200), (200, 9), (64, 64), (110, 100), (300, 260), (1, 1))
"""Of images: one patch, one row, one column, as many tokens as allowed, shrunk, smaller than a patch."""


def photo(index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    return rng.integers(0, 256, (*SIZES[index], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Engine:
    return nd.load(bundle)


@cache
def alone(engine: Engine, index: int) -> dict[str, np.ndarray]:
    (result,) = engine.stream([photo(index)], OUTPUTS)
    assert result.error is None
    return result.outputs


def assert_isolated(outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    for name, expected in reference.items():
        assert outputs[name].shape == expected.shape, name
        assert np.abs(outputs[name] - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), name


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=14))
def test_an_image_gives_what_it_gives_alone_whatever_its_neighbours_and_their_order(
    engine: Engine, chosen: list[int]
) -> None:
    results = {result.input: result for result in engine.stream(map(photo, chosen), OUTPUTS)}
    assert sorted(results) == list(range(len(chosen)))
    for position, index in enumerate(chosen):
        assert_isolated(results[position].outputs, alone(engine, index))


@settings(deadline=None, max_examples=30)
@given(
    chosen=st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=4),
    tail=st.integers(0, 40),
    unused=st.integers(0, 3),
)
def test_an_image_gives_what_it_gives_alone_before_any_tail(
    bundle: Path, engine: Engine, chosen: list[int], tail: int, unused: int
) -> None:
    prepared = [next(engine._prepare(0, photo(index)))[0].patches for index in chosen]
    images = [image for image in prepared if image is not None]
    useful = sum(map(len, images))
    pack = Pack.of(images, tokens=useful + tail, slots=len(images) + unused)
    found = tail_session(bundle).run(pack, OUTPUTS)
    for position, (index, tokens) in enumerate(zip(chosen, pack.split(found["tokens"]), strict=True)):
        own = {"pooled": found["pooled"][position], "logits": found["logits"][position], "tokens": tokens}
        assert_isolated(own, alone(engine, index))


@cache
def tail_session(bundle: Path) -> OnnxRuntimeSession:
    return open_session(bundle, nd.load(bundle).variant)


def test_results_come_in_the_order_of_the_inputs(engine: Engine) -> None:
    chosen = [*range(len(SIZES)), *reversed(range(len(SIZES)))] * 2
    images = [photo(index) for index in chosen]
    vectors, tokens, classes = engine.embed(images), engine.tokens(images), engine.classify(images, top=CLASSES)
    assert (vectors.shape, vectors.dtype) == ((len(chosen), WIDTH), np.float32)
    assert engine.variant.budgets[-1] == BUDGET < sum(part.shape[0] * part.shape[1] for part in tokens)
    for position, index in enumerate(chosen):
        reference = alone(engine, index)
        own = {"pooled": vectors[position], "tokens": tokens[position]}
        assert_isolated(own, {name: reference[name] for name in own})
        assert classes[position][0].name == str(reference["logits"].argmax())


def test_every_kind_of_source_gives_the_same(engine: Engine, tmp_path: Path) -> None:
    pixels = photo(6)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    sources = [pixels, path, str(path), path.read_bytes(), BytesIO(path.read_bytes()), Image.fromarray(pixels)]
    rows = engine.embed(sources)
    assert np.abs(rows - rows[0]).max() <= 1e-5 * np.abs(rows).max()


def test_every_frame_of_a_tiff_is_an_image(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "pages.tiff"
    first, *rest = [Image.fromarray(photo(index)) for index in (6, 2, 7)]
    first.save(path, save_all=True, append_images=rest)
    results = list(engine.stream([photo(0), path, photo(3)], OUTPUTS))
    found = {(result.input, result.frame): result for result in results}
    assert sorted(found) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    for key, index in {(0, 0): 0, (1, 0): 6, (1, 1): 2, (1, 2): 7, (2, 0): 3}.items():
        assert found[key].size == SIZES[index][::-1]
        assert_isolated(found[key].outputs, alone(engine, index))
    assert engine.embed([path, photo(0)]).shape == (4, WIDTH)


def test_a_bad_image_harms_no_other(engine: Engine, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    sources = [photo(0), text, photo(6), b"", np.zeros((0, 0, 3), np.uint8), tmp_path / "missing.png", photo(3)]
    results = {result.input: result for result in engine.stream(sources, OUTPUTS)}
    assert sorted(results) == list(range(len(sources)))
    for position, index in {0: 0, 2: 6, 6: 3}.items():
        assert_isolated(results[position].outputs, alone(engine, index))
    for position in (1, 3, 4, 5):
        error = results[position].error
        assert isinstance(error, ImageError)
        assert results[position].name in error.message
        assert (results[position].outputs, results[position].pack) == ({}, -1)
    with pytest.raises(ImageError, match=r"text\.jpg"):
        engine.embed(sources)


def test_an_unknown_output_is_refused_with_those_there_are(engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"no output 'tokens:-2', expected one of \['tokens', 'pooled', 'logits'\]"):
        engine.tokens([], "tokens:-2")


@pytest.mark.parametrize("form", ["path", "text", "bytes", "array", "grey", "picture", "file", "patches", "none"])
def test_one_image_is_not_taken_for_several(engine: Engine, tmp_path: Path, form: str) -> None:
    """An array would give one vector per row, and a path one per letter."""
    path = tmp_path / "a.png"
    Image.fromarray(photo(2)).save(path)
    with path.open("rb") as file:
        one = {
            "path": path,
            "text": str(path),
            "bytes": path.read_bytes(),
            "array": photo(2),
            "grey": photo(2)[:, :, 0],
            "picture": Image.open(path),
            "file": file,
            "patches": Patches(np.zeros((1, 192), np.uint8), (1, 1)),
            "none": None,
        }[form]
        for method in (lambda images: list(engine.stream(images)), lambda images: list(engine.packed(images))):
            with pytest.raises(UsageError, match="expected a list of images"):
                method(one)
    batch = np.stack([photo(2), photo(2)])
    np.testing.assert_array_equal(engine.embed(batch), engine.embed([photo(2)] * 2))


def test_outputs_are_asked_for_where_they_can_be_given(engine: Engine) -> None:
    with pytest.raises(UsageError, match="output per token, found 'pooled', which has one vector per image"):
        engine.tokens([photo(0)], "pooled")
    with pytest.raises(UsageError, match="top: expected at least 1, found -1"):
        engine.classify([photo(0)], top=-1)
    (result,) = engine.stream([photo(0)], "tokens")
    assert list(result.outputs) == ["tokens"]


class Means:
    """An engine in numpy: the mean of an image's patches. A white image turns the whole pack into NaN."""

    def __init__(self, spread: bool = True) -> None:
        self.packs: list[int] = []
        self.spread = spread

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        self.packs.append(pack.images)
        tokens = pack.patches.reshape(pack.tokens, -1, 3).mean(1).astype(np.float32)
        pooled = np.stack([part.mean((0, 1)) for part in pack.split(tokens)])
        white = (pooled == 255).all(1)
        if white.any():
            pooled[... if self.spread else white] = np.nan
            tokens[...] = np.nan
        return {"pooled": pooled, "tokens": tokens}


def means_engine(session: Means) -> Engine:
    return Engine(session, a_manifest(), a_variant())


def flat(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize("spread", [True, False])
def test_an_image_that_yields_nan_fails_alone(spread: bool) -> None:
    session = Means(spread)
    values = [10, 255, 30, 40, 255]
    results = {result.input: result for result in means_engine(session).stream(map(flat, values), ("pooled", "tokens"))}
    for position, value in enumerate(values):
        result = results[position]
        if value == 255:
            assert isinstance(result.error, EngineError)
            assert "NaN" in result.error.message
            assert result.outputs == {}
        else:
            assert result.error is None
            assert result.outputs["pooled"] == pytest.approx(value)
            assert result.outputs["tokens"] == pytest.approx(value)


def test_nothing_is_run_twice_without_need() -> None:
    session = Means()
    assert means_engine(session).embed([flat(value) for value in range(7)]).shape == (7, 3)
    assert sum(session.packs) == 7
    assert max(session.packs) <= 5


def test_an_image_that_yields_nan_fails_alone_in_a_real_graph(bundle: Path, engine: Engine, tmp_path: Path) -> None:
    """The portable graph, whose masked attention carries one token's NaN to every image: white patches become NaN."""
    graph = onnx.load(bundle / "portable.onnx")
    (cast,) = [node for node in graph.graph.node if Role.PATCHES.value in node.input]
    pixels, cast.output[0] = cast.output[0], "pixels_before"
    graph.graph.initializer.extend(
        [
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
            helper.make_tensor("nan", TensorProto.FLOAT, [], [float("nan")]),
        ]
    )
    position = list(graph.graph.node).index(cast) + 1
    for node in (
        helper.make_node("Where", ["is_white", "nan", "pixels_before"], [pixels]),
        helper.make_node("Equal", ["pixels_before", "white"], ["is_white"]),
    ):
        graph.graph.node.insert(position, node)
    onnx.save(graph, tmp_path / "nan.onnx")
    variant = engine.variant.model_copy(update={"inputs": engine.manifest.inputs})
    session = OnnxRuntimeSession(tmp_path / "nan.onnx", variant)
    poisoned = Engine(session, engine.manifest, engine.variant)

    grey = [np.minimum(photo(index), 254) for index in (6, 2, 3)]
    sources = [grey[0], flat(255, 16), grey[1], grey[2]]
    together = {result.input: result for result in poisoned.stream(sources, OUTPUTS)}
    assert isinstance(together[1].error, EngineError)
    for position, image in {0: grey[0], 2: grey[1], 3: grey[2]}.items():
        (reference,) = engine.stream([image], OUTPUTS)
        assert_isolated(together[position].outputs, reference.outputs)

    # Without the rerun, the others would have been lost, so the test covers the rerun.
    patches = [Patches(np.full((1, 192), value, np.uint8), (1, 1)) for value in (9, 255)]
    assert np.isnan(session.run(Pack.of(patches), ("pooled",))["pooled"]).all()


class Unused:
    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        raise AssertionError("nothing is to be run")


def test_no_images_give_no_rows_without_a_call() -> None:
    engine = Engine(Unused(), a_manifest(), a_variant())
    assert (engine.embed([]).shape, engine.embed(iter(())).dtype) == ((0, 3), np.float32)
    assert engine.tokens([]) == []
    assert list(engine.stream([])) == []


def test_an_endless_input_streams_and_little_is_held() -> None:
    given_out = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal given_out
        for number in itertools.count():
            given_out += 1
            assert given_out < 2000, "everything is held"
            yield flat(number % 250, side=4 * (1 + number % 8))

    held = 0
    for taken, result in enumerate(itertools.islice(means_engine(Means()).stream(endless()), 500), start=1):
        assert result.outputs["pooled"] == pytest.approx(result.input % 250)
        held = max(held, given_out - taken)
    # Images have 25.5 tokens on average and packs at most 64, so a window holds about ten images, and packs a few more.
    assert held <= 3 * WINDOW * 64 / 25.5


def test_a_tiff_of_many_frames_is_not_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = means_engine(Means())
    decoded = 0

    def frames(index: int, source: object) -> Iterator[list[Prepared]]:
        nonlocal decoded
        for frame in range(100):
            decoded += 1
            patches = Patches(np.full((64, 48), frame, np.uint8), (8, 8))
            yield [Prepared(Result(index, frame, "pages.tiff", (32, 32)), patches)]

    monkeypatch.setattr(engine, "_prepare", frames)
    results = engine.stream(["pages.tiff"])
    next(results)
    assert decoded <= WINDOW + 1
    assert len(list(results)) == 99


def tiled_engine(session: Means, **image: object) -> Engine:
    """Tiles of at most 16 patches of 4 pixels, packs of 64 tokens and 5 images."""
    manifest = a_manifest()
    section = manifest.config.image.model_copy(update={"fit": "tiles", "tokens": 16, "overlap": 1, **image})
    config = manifest.config.model_copy(update={"image": section})
    return Engine(session, manifest.model_copy(update={"config": config}), a_variant())


def test_all_packs_but_the_last_of_a_stream_are_full_where_they_run_one_by_one() -> None:
    session = Means()
    engine = tiled_engine(session, fit="shrink-only")
    assert len(list(engine.stream([flat(3, side=16)] * 33))) == 33
    assert session.packs == [4] * 8 + [1]


def test_a_page_gives_its_whole_and_its_tiles_keyed_by_box() -> None:
    page = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    results = list(tiled_engine(Means()).stream([flat(3), page], ("pooled", "tokens")))
    small, images = sorted(by_frame(results), key=len)
    assert [(image.tile, image.tiles, image.box) for image in small] == [(0, 1, (0, 0, 8, 8))]
    whole, *tiles = images
    assert (whole.box, whole.size, whole.tiles) == ((0, 0, 60, 40), (60, 40), len(images))
    assert len(tiles) > 9
    for tile in tiles:
        left, top, right, bottom = (int(side) for side in tile.box)
        assert (bottom - top, right - left) == (4 * tile.grid_hw[0], 4 * tile.grid_hw[1])
        assert tile.outputs["pooled"] == pytest.approx(page[top:bottom, left:right].mean((0, 1)), abs=1e-3)


def test_one_answer_a_page_from_its_tiles() -> None:
    page = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    engine = tiled_engine(Means())
    first, second = engine.tokens([page, flat(3)])
    assert first == pytest.approx(page.reshape(10, 4, 15, 4, 3).mean((1, 3)), abs=1e-3)
    assert second.shape == (2, 2, 3)
    whole, *tiles = next(by_frame(engine.stream([page])))
    expected = (whole.outputs["pooled"] + np.mean([tile.outputs["pooled"] for tile in tiles], axis=0)) / 2
    assert engine.embed([page])[0] == pytest.approx(expected)


def test_a_page_whose_tile_yields_nan_is_an_error() -> None:
    page = np.random.default_rng(0).integers(0, 250, (40, 60, 3), dtype=np.uint8)
    page[:20, :20] = 255
    engine = tiled_engine(Means())
    results = list(engine.stream([page, flat(3)]))
    failed = [result for result in results if result.error]
    assert [result.box[:2] for result in failed] == [(0, 0)]
    with pytest.raises(EngineError, match="NaN"):
        engine.embed([page])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20))
def test_images_of_a_page_share_a_pack_where_it_holds_them(sizes: list[tuple[int, int]]) -> None:
    session = Means()
    pages = [np.zeros((*size, 3), np.uint8) for size in sizes]
    results = list(tiled_engine(session).stream(pages))
    assert sum(session.packs) == len(results)
    assert max(session.packs) <= 5
    frames = list(by_frame(results))
    assert len(frames) == len(pages)
    for images in frames:
        if len(images) <= 5 and sum(image.grid_hw[0] * image.grid_hw[1] for image in images) <= 64:
            assert len({image.pack for image in images}) == 1
