"""Clips of models whose patches span two frames, against transformers' video processor and tower."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.video_utils import VideoMetadata

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import CheckpointError, ImageError
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.profile import VideoSection
from naflex_deploy.core.sizing import SmartResize
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.video import even_places
from naflex_deploy.runtime.images.sizing import plan_clip
from naflex_deploy.runtime.packing import prepare as prepare_module
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.support.clips import clip, number_of
from tests.support.packs import inputs
from tests.support.vlms import VLMS

LIMITS = {"shortest_edge": 4096, "longest_edge": 200_000}
PROFILE = resolve(
    "photo",
    settings=(
        "image.fit=model",
        "image.tokens=auto",
        "video.frames=even",
        "video.rate=2",
        "engine.openvino.budgets=[20000]",
    ),
).profile


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = VLMS["Qwen3VL"].save(tmp_path_factory.mktemp("clips"))
    settings = {"video_processor_type": "Qwen3VLVideoProcessor", "size": LIMITS}
    (found / "video_preprocessor_config.json").write_text(json.dumps(settings))
    return found


@pytest.fixture(scope="module")
def checkpoint(directory: Path) -> Checkpoint:
    return read(directory).for_clips()


def frames(count: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]] / 30
    waves = [np.stack([np.sin(x + n), np.cos(y - n), np.sin(x + y)], axis=2) * 100 + 128 for n in range(count)]
    return [Image.fromarray((wave + rng.normal(0, 5, wave.shape)).clip(0, 255).astype(np.uint8)) for wave in waves]


def pairs(checkpoint: Checkpoint, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> list[Patches]:
    """What becomes of the frames of a clip that are taken."""

    def given_frames(*args: object, **options: object) -> Iterator[Frame]:
        for number, picture in enumerate(pictures):
            last = number == len(pictures) - 1
            yield Frame(number, picture, time=float(number), spread=len(pictures), last=last)

    monkeypatch.setattr(prepare_module, "read_frames", given_frames)
    preparer = Preparer(checkpoint.preprocessing, PROFILE, "openvino")
    prepared = [item for (item,) in preparer.here(0, Input("clip", b"", kind="video"))]
    assert [item.result.frame for item in prepared] == list(range(-(-len(pictures) // 2)))
    assert [item.result.last for item in prepared][-1]
    times = [(2 * n + min(2 * n + 1, len(pictures) - 1)) / 2 for n in range(len(prepared))]
    assert [item.result.time for item in prepared] == times
    return [item.patches for item in prepared if item.patches is not None]


@given(st.integers(1, 5000), st.floats(1, 120), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_frames_are_spread_as_transformers_spreads_them(total: int, rate: float, wanted: float) -> None:
    metadata = VideoMetadata(total_num_frames=total, fps=rate)
    expected = Qwen3VLVideoProcessor().sample_frames(metadata, fps=wanted)
    assert even_places(total, rate, VideoSection(frames="even", rate=wanted)) == expected.tolist()


@given(st.integers(2, 768), st.integers(1, 3000), st.integers(1, 3000))
def test_frames_are_sized_as_transformers_sizes_them(count: int, height: int, width: int) -> None:
    for least, most in ((131_072, 786_432), (4096, 25_165_824)):
        rule = SmartResize(min_pixels=least, max_pixels=most, short="scale")
        try:
            expected = smart_resize(count, height, width, factor=32, min_pixels=least, max_pixels=most)
        except ValueError:
            with pytest.raises(ImageError):
                plan_clip((height, width), rule, count, patch_size=16, merge=2, tokens=10**9)
        else:
            fit = plan_clip((height, width), rule, count, patch_size=16, merge=2, tokens=10**9)
            assert fit.size == expected


@pytest.mark.parametrize(("count", "size"), [(4, (128, 96)), (5, (300, 200)), (2, (640, 360))])
def test_the_tower_gives_what_transformers_gives(
    checkpoint: Checkpoint, directory: Path, count: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels within a level, and tokens of the same pixels within 1e-5."""
    pictures = frames(count, size)
    found = pairs(checkpoint, pictures, monkeypatch)
    processor = Qwen3VLVideoProcessor(size=LIMITS, do_sample_frames=False, do_rescale=False, do_normalize=False)
    video = np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    theirs = processor(videos=[torch.from_numpy(video.copy())], return_tensors="pt")
    t, h, w = theirs["video_grid_thw"][0].tolist()
    assert [(image.grid_hw, len(found)) for image in found] == [((h, w), t)] * t
    blocks = theirs["pixel_values_videos"].numpy().reshape(t, h // 2, w // 2, 2, 2, 3, 2, 16, 16)
    # Blocks to raster order, and (channel, frame, y, x) to (frame, y, x, channel).
    raster = blocks.transpose(0, 1, 3, 2, 4, 6, 7, 8, 5).reshape(t, h * w, -1)
    for image, expected in zip(found, raster, strict=True):
        assert np.abs(image.pixels.astype(np.float32) - expected).max() <= 1

    model = checkpoint.model(("vlm", "deepstack:0"))
    with torch.inference_mode():
        ours = model(*inputs(model, Pack.of(found)))
        whole = VLMS["Qwen3VL"].load(directory)
        mine = np.stack([image.pixels for image in found]).reshape(t, h // 2, 2, w // 2, 2, 2, 16, 16, 3)
        again = mine.transpose(0, 1, 3, 2, 4, 8, 5, 6, 7).reshape(t * h * w, -1)
        pixels = (torch.from_numpy(again.copy()).double() / 255 - 0.5) / 0.5
        reference = whole.model.get_video_features(pixels, theirs["video_grid_thw"])
    for name, expected in (("vlm", reference.pooler_output), ("deepstack:0", reference.deepstack_features[0])):
        values = torch.cat(list(expected))
        assert (ours[name] - values).abs().max() <= 1e-5 * values.abs().max()


def test_a_still_equals_the_engine_of_stills(checkpoint: Checkpoint, directory: Path) -> None:
    (picture,) = frames(1, (128, 96))
    results = []
    for one in (read(directory), checkpoint):
        ((item,),) = Preparer(one.preprocessing, PROFILE, "openvino")(0, picture)
        assert item.patches is not None
        model = one.model(("vlm",))
        with torch.inference_mode():
            results.append(model(*inputs(model, Pack.of([item.patches])))["vlm"])
    assert (results[0] - results[1]).abs().max() <= 2e-6 * results[0].abs().max()


def test_a_clip_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """30 frames, of which five are taken: the last one alone stands for two."""
    path = clip(tmp_path / "a.mp4", [100 * n for n in range(30)])
    preparer = Preparer(checkpoint.preprocessing, PROFILE, "openvino")
    for done in ((), (0,), (1,)):
        prepared = [item for (item,) in preparer.here(0, Input("a.mp4", path, frozenset(done), "video"))]
        levels = [
            item.patches.pixels.reshape(len(item.patches), 2, -1) for item in prepared if item.patches is not None
        ]
        taken = [tuple(number_of(level[:, half]) for half in (0, 1)) for level in levels]
        numbers = [n for n in range(3) if n not in done]
        assert [item.result.frame for item in prepared] == numbers
        assert taken == [((0, 7), (14, 22), (29, 29))[n] for n in numbers]
        assert [item.result.time for item in prepared] == [pytest.approx((0.35, 1.8, 2.9)[n]) for n in numbers]


def test_what_cannot_be_read_is_the_error_of_the_next_pair(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> Iterator[Frame]:
        for number, picture in enumerate(frames(3, (128, 96))):
            yield Frame(number, picture, spread=8)
        yield Frame(3, error=ImageError("clip: damaged"), last=True)

    monkeypatch.setattr(prepare_module, "read_frames", broken)
    first, second = Preparer(checkpoint.preprocessing, PROFILE, "openvino").here(0, Input("clip", b"", kind="video"))
    assert first[0].patches is not None
    assert (second[0].result.frame, second[0].result.last) == (1, True)
    assert str(second[0].result.error) == "clip: damaged"


def test_settings_of_the_video_processor(directory: Path, tmp_path: Path) -> None:
    assert read(directory).preprocessing.clip == SmartResize(min_pixels=4096, max_pixels=200_000, short="scale")
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).symlink_to(directory / name)
    default = read(tmp_path).preprocessing.clip
    assert default == SmartResize(min_pixels=131_072, max_pixels=786_432, short="scale")
    file = tmp_path / "video_preprocessor_config.json"
    file.write_text('{"video_processor_type": "OtherVideoProcessor"}')
    other = read(tmp_path)
    assert other.preprocessing.clip is None
    assert other.for_clips() is other
    file.write_text('{"size": {"height": 3}}')
    with pytest.raises(CheckpointError, match=r"video_preprocessor_config\.json: size = .* is not supported"):
        read(tmp_path)
