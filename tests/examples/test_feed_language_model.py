"""Generation through the handover gives the tokens that the whole model gives, for every family."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from examples.feed_language_model import encoder_outputs, expand, inputs_for
from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.embedding.handover import encode_for_language_model
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.packing import prepare
from naflex_deploy.runtime.results.handover import ImageTokens
from tests.support.families import processor
from tests.support.packed_engine import packed_engine
from tests.support.vlms import SAME_TOWERS, VLMS, Vlm

IDS = {"image_token_id": 45, "video_token_id": 46, "vision_start_token_id": 47, "vision_end_token_id": 48}
SMALL = {"size": {"shortest_edge": 3136, "longest_edge": 65_536}}
LIMITS = {"LFM2-VL": {"min_image_tokens": 4, "max_image_tokens": 64, "tile_size": 128, "max_pixels_tolerance": 1.0}}
LIMITS["Kimi K2.5"] = {"max_patches": 256}
SIZES = [(64, 96), (128, 64), (64, 64), (192, 128), (96, 160)]
FAMILIES = [*(name for name in VLMS if name not in SAME_TOWERS), "Qwen3OmniMoeThinker"]


class Case:
    """A family, its whole model in float32, and an engine of its tower."""

    def __init__(self, vlm: Vlm, directory: Path) -> None:
        text = vlm.config["text_config"]
        if vlm.title == "Qwen3.5":  # generates from caches, one of which must be of an attention layer
            text = {**text, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
        # Tied embeddings of a model without training repeat their input for ever.
        config = {**vlm.config, **IDS, "text_config": {**text, "tie_word_embeddings": False}}
        self.vlm = dataclasses.replace(vlm, config={**config, "tie_word_embeddings": False})
        self.directory = self.vlm.save(directory)
        file = directory / "preprocessor_config.json"
        self.limits = LIMITS.get(vlm.title, SMALL)
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({**settings, **self.limits, "min_pixels": None, "max_pixels": None}))
        self.settings = json.loads(file.read_text())
        self.model: Any = self.vlm.load(directory).float()
        self.model.generation_config.eos_token_id = None
        checkpoint = read(directory)
        projector = checkpoint.architecture.projector
        assert projector is not None
        outputs = ("vlm", *(f"deepstack:{k}" for k in range(len(projector.taps))))
        self.engine: Engine = packed_engine(checkpoint, outputs, "image.fit=model", "image.tokens=auto")

    def prompt(self, seed: int) -> tuple[list[int], list[Image.Image]]:
        """Token ids with a placeholder for each image, and one to three images that keep their size."""
        rng = np.random.default_rng(seed)
        side = 2 * self.vlm.patch_size
        images, ids = [], rng.integers(1, 40, 4).tolist()
        for _ in range(1 + seed % 3):
            width, height = SIZES[rng.integers(len(SIZES))]
            shape = (height // 32 * side, width // 32 * side, 3)
            images.append(Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)))
            ids += [IDS["vision_start_token_id"], IDS["image_token_id"], *rng.integers(1, 40, 3).tolist()]
        return ids, images

    def pixels(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """What the family's own processor gives the tower."""
        kind = "qwen3_vl" if self.vlm.title.startswith("Qwen") else self.model.config.model_type
        options = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **self.limits}
        if self.limits is SMALL and kind in ("paddleocr_vl", "video_llama_3"):
            options |= {"min_pixels": None, "max_pixels": None}
        return dict(processor(kind, backend="torchvision", **options)(images, return_tensors="pt"))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(VLMS[request.param], tmp_path_factory.mktemp(request.param))


COUNTS = [8, pytest.param(32, marks=pytest.mark.exhaustive)]
"""Of new tokens."""


def options(count: int) -> dict[str, Any]:
    return {"max_new_tokens": count, "do_sample": False, "use_cache": True}


def generated(case: Case, seed: int, count: int) -> tuple[list[int], list[int]]:
    """New tokens of the whole model, and of the model that the engine feeds."""
    prompt, images = case.prompt(seed)
    tokens = encode_for_language_model(case.engine, images)
    ids = expand(prompt, IDS["image_token_id"], tokens)
    inputs = inputs_for(case.model, ids, tokens)
    own = {name: values for name, values in inputs.items() if name not in ("mm_encoder_outputs", "image_grid_thw")}
    with torch.inference_mode():
        theirs = case.model.generate(**own, **case.pixels(images), **options(count))
        ours = case.model.generate(**inputs, **options(count))
    return theirs[0, len(ids) :].tolist(), ours[0, len(ids) :].tolist()


def test_the_engine_feeds_what_the_tower_feeds(case: Case) -> None:
    prompt, images = case.prompt(2)
    tokens = encode_for_language_model(case.engine, images)
    inputs = inputs_for(case.model, expand(prompt, IDS["image_token_id"], tokens), tokens)
    outputs = inputs.pop("mm_encoder_outputs")
    same_tokens(case, inputs, case.pixels(images), outputs, 8)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(20))
def test_twenty_prompts(case: Case, seed: int) -> None:
    theirs, ours = generated(case, seed, 32)
    assert len(theirs) == 32
    assert ours == theirs


def same_tokens(case: Case, inputs: dict[str, Any], own: dict[str, Any], outputs: dict[str, Any], count: int) -> None:
    """The whole model with its own pixels, and the one that is fed, generate the same; a wrong token is seen."""
    with torch.inference_mode():
        theirs = case.model.generate(**{**inputs, **own}, **options(count))
        ours = case.model.generate(**inputs, mm_encoder_outputs=outputs, **options(count))
        (found,) = outputs.values()
        for part in found.pooler_output:
            part[0].neg_()
        wrong = case.model.generate(**inputs, mm_encoder_outputs=outputs, **options(count))
    assert ours.tolist() == theirs.tolist()
    assert wrong.tolist() != theirs.tolist()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", ["Lfm2Vl"], indirect=True)
def test_tiles_are_fed(case: Case, count: int) -> None:
    """An image of 3x2 tiles, which come before the thumbnail."""
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (256, 384, 3)).astype(np.uint8))
    tokens = encode_for_language_model(case.engine, [image])
    assert [len(part) for part in tokens[0].parts] == [16] * 6 + [54]
    ids = expand([3, *[IDS["image_token_id"]] * 7, 5, 9], IDS["image_token_id"], tokens)
    inputs = inputs_for(case.model, ids, tokens)
    outputs = inputs.pop("mm_encoder_outputs")
    same_tokens(case, inputs, case.pixels([image]), outputs, count)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", ["Qwen3VL"], indirect=True)
def test_a_clip_is_fed(case: Case, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five frames, which become three pairs, each behind its time in the prompt."""
    rng = np.random.default_rng(4)
    frames = [Image.fromarray(rng.integers(0, 256, (64, 96, 3)).astype(np.uint8)) for _ in range(5)]

    def given(*args: object, **options: object) -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            yield Frame(number, frame, time=float(number), spread=len(frames), last=number == len(frames) - 1)

    monkeypatch.setattr(prepare, "read_frames", given)
    limits = {"shortest_edge": 4096, "longest_edge": 200_000}
    settings = {"video_processor_type": "Qwen3VLVideoProcessor", "size": limits}
    (case.directory / "video_preprocessor_config.json").write_text(json.dumps(settings))
    profile = ("image.fit=model", "image.tokens=auto", "video.frames=even", "video.rate=2")
    outputs = ("vlm", "deepstack:0", "deepstack:1")
    engine = packed_engine(read(case.directory).for_clips(), outputs, *profile)
    reader = prepare.Preparer(engine.manifest.preprocessing, engine.manifest.config, "onnxruntime")
    prepared = [item for (item,) in reader.here(0, Input("clip", b"", kind="video"))]
    assert [item.result.time for item in prepared] == [0.5, 2.5, 4.0]
    results = engine.stream([item.patches for item in prepared if item.patches is not None], outputs)
    pairs = [ImageTokens.of([result]) for result in sorted(results, key=lambda result: result.input)]

    ids = [3]
    start, video, end = (IDS[f"{name}_token_id"] for name in ("vision_start", "video", "vision_end"))
    for pair in pairs:
        ids += [7, start, *[video] * pair.placeholders, end]
    tokens = torch.tensor([[*ids, 5, 9]])
    h, w = pairs[0].grids[0]
    inputs = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "video_grid_thw": torch.tensor([[len(pairs), h, w]]),
        "mm_token_type_ids": 2 * (tokens == video).int(),
    }
    taps = [[torch.cat([torch.from_numpy(pair.deepstack[k][0]) for pair in pairs])] for k in range(2)]
    values = [torch.cat([torch.from_numpy(part) for pair in pairs for part in pair.parts])]
    processor = Qwen3VLVideoProcessor(size=limits, do_sample_frames=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]).transpose(0, 3, 1, 2).copy())
    theirs = processor(videos=[pixels], return_tensors="pt")
    assert theirs["video_grid_thw"].tolist() == inputs["video_grid_thw"].tolist()
    fed = BaseModelOutputWithDeepstackFeatures(pooler_output=values, deepstack_features=taps)
    same_tokens(case, inputs, {"pixel_values_videos": theirs["pixel_values_videos"]}, {"video": fed}, count)


def test_features_are_those_of_the_model_from_its_own_processor(case: Case) -> None:
    """End to end, at sizes that are resized, of LFM2-VL into tiles, by the lowest cosine of a token."""
    rng = np.random.default_rng(0)
    tiled = case.vlm.title == "LFM2-VL"
    y, x = (np.mgrid[:300, :410] if tiled else np.mgrid[:150, :210]) / 40
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2) * 100 + 128
    images = [Image.fromarray((waves + rng.normal(0, 5, waves.shape)).clip(0, 255).astype(np.uint8))]
    with torch.inference_mode():
        found = case.model.model.get_image_features(**case.pixels(images))
    (ours,) = encode_for_language_model(case.engine, images)
    expected = [part.numpy() for part in found.pooler_output]
    assert [len(part) for part in expected] == [len(part) for part in ours.parts]
    assert (len(ours.parts) > 2) == tiled
    for mine, theirs in zip(ours.parts, expected, strict=True):
        cosines = (mine * theirs).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
        assert cosines.min() >= 0.9999


def test_prompts_that_do_not_fit_are_refused(case: Case) -> None:
    prompt, images = case.prompt(1)
    tokens = encode_for_language_model(case.engine, images)
    with pytest.raises(UsageError, match="placeholders in the prompt for 2 images of"):
        expand([1, 45, 2], 45, tokens)
    with pytest.raises(UsageError, match=r"expected .* placeholders in the prompt for 2 images of"):
        expand([*prompt, 45], 45, tokens)
    with pytest.raises(UsageError, match="placeholders"):
        inputs_for(case.model, [1, 45, 45, 2], tokens)
    assert set(encoder_outputs(tokens)) == {"image"}
