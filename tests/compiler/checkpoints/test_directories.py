"""Random directories: we read the weights and the preprocessing that transformers reads from them, or refuse them.

A directory draws its class, names, types and files of weights, files beside them, the processor's settings, and keys of
its config. There is no third outcome.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, Siglip2ForImageClassification, Siglip2Model, Siglip2VisionModel
from transformers.utils import logging

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.cutting import Cutter
from tests.support.siglip2 import small

EXAMPLES = 40
CLASSES = {kind.__name__: kind for kind in (Siglip2VisionModel, Siglip2ForImageClassification, Siglip2Model)}
INDEX = "model.safetensors.index.json"
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8))
TOKENS = 24
OUTCOMES: Counter[str] = Counter()


def mostly(usual: list[Any], odd: list[Any]) -> st.SearchStrategy[Any]:
    """One of the usual values, and one of the odd ones now and then, so that many directories can be read."""
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(usual if n else odd))


NAMES = st.sampled_from(
    ["", "", "", "_orig_mod.", "module.", "model.", "module._orig_mod.", "ema_model.module.", "net."]
)
DTYPES = mostly([torch.float32, torch.bfloat16, torch.float16], [torch.int8])
LAYOUTS = mostly(["single", "single", "shards"], ["other name", "shards without index", "missing shard"])
STRAYS = ["model_ema.safetensors", "open_clip_model.safetensors", "adapter_model.safetensors", "pytorch_model.bin"]
STRAYS += ["model-00001-of-00009.safetensors", "model.fp16.safetensors"]
BESIDE = st.lists(mostly(STRAYS, ["adapter_config.json"]), max_size=2, unique=True)
FLAGS = mostly([True, True, False], [None, 1])
TRIPLES = mostly([[0.5] * 3, [0.485, 0.456, 0.406], [0.3, 0.2, 0.1], 0.4], [[0.5], [0.5, 0.5], None, "0.5"])
PROCESSOR = st.fixed_dictionaries(
    {},
    optional={
        "image_processor_type": mostly(["Siglip2ImageProcessor", "Siglip2ImageProcessorFast"], ["CLIPImageProcessor"]),
        "do_resize": mostly([True], [False]),
        "do_rescale": FLAGS,
        "do_normalize": FLAGS,
        "do_convert_rgb": st.sampled_from([True, False, None]),
        "rescale_factor": mostly([1 / 255, 1 / 127.5, 1 / 256, 1], [None, 0]),
        "image_mean": TRIPLES,
        "image_std": TRIPLES,
        "resample": mostly([2, 3], [0, "bicubic", None]),
        "patch_size": mostly([8], [16]),
        "max_num_patches": st.sampled_from([256, 1024]),
    },
)
LABELS = {"0": "cat", "1": "dog", "2": "newt"}
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "quantization_config": mostly([None], [{"quant_method": "bitsandbytes", "load_in_8bit": True}]),
        "transformers_weights": mostly([None], ["model_ema.safetensors", "model.safetensors", "../x"]),
        "id2label": mostly([LABELS], [{"0": "a", "2": "c"}, {"0": "a", "1": "b"}, {"1": "a", "2": "b", "3": "c"}]),
        "problem_type": mostly(["regression", "multi_label_classification"], ["of next year"]),
        "tie_word_embeddings": st.booleans(),
    },
)
DIRECTORIES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(CLASSES)),
        "prefix": NAMES,
        "dtype": DTYPES,
        "layout": LAYOUTS,
        "beside": BESIDE,
        "own": st.none() | PROCESSOR,
        "nested": st.none() | PROCESSOR,
        "config": CONFIG,
        "seed": st.integers(0, 3),
    }
)


@cache
def base(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return small(CLASSES[kind], num_hidden_layers=1, hidden_size=24, intermediate_size=32, num_patches=16)


def write(directory: Path, drawn: dict[str, Any]) -> dict[str, Tensor]:
    """The directory; returns the tensors of its model."""
    model = base(drawn["kind"], drawn["seed"])
    model.config.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [drawn["kind"]]} | drawn["config"]))
    dtype = drawn["dtype"]
    true = {name: tensor.to(dtype).clone() for name, tensor in model.state_dict().items()}
    named = {drawn["prefix"] + name: tensor for name, tensor in true.items()}
    names = sorted(named)
    if drawn["layout"] in ("single", "other name"):
        name = "model.safetensors" if drawn["layout"] == "single" else "weights.safetensors"
        save_file(named, directory / name, {"format": "pt"})
    else:
        parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        for file, part in parts.items():
            save_file({name: named[name] for name in part}, directory / file, {"format": "pt"})
        if drawn["layout"] != "shards without index":
            placed = {name: file for file, part in parts.items() for name in part}
            (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
        if drawn["layout"] == "missing shard":
            (directory / max(parts)).unlink()
    for name in drawn["beside"]:
        if name.endswith(".safetensors"):
            save_file(
                {key: (2 * tensor).to(dtype) for key, tensor in named.items()}, directory / name, {"format": "pt"}
            )
        else:
            (directory / name).write_text("{}")
    if drawn["own"] is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(drawn["own"]))
    if drawn["nested"] is not None:
        (directory / "processor_config.json").write_text(json.dumps({"image_processor": drawn["nested"]}))
    return true


def their_model(directory: Path, kind: str) -> nn.Module | None:
    """What ``from_pretrained`` gives; ``None`` where it raises, or leaves weights at random."""
    try:
        model, loading = CLASSES[kind].from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    except Exception:
        return None
    return None if loading["missing_keys"] else model


def their_pixels(directory: Path) -> np.ndarray | None:
    try:
        processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
        found = processor(images=[IMAGE], patch_size=8, max_num_patches=TOKENS, return_tensors="np")
        return found["pixel_values"][0][: int(found["pixel_attention_mask"].sum())]
    except Exception:
        return None


def our_pixels(checkpoint: Checkpoint) -> np.ndarray:
    p = checkpoint.preprocessing
    cutter = Cutter(ImageSection(tokens=TOKENS, fit="fill"), p, TOKENS)
    patches = cutter.patches(IMAGE, cutter.layout((IMAGE.height, IMAGE.width)).whole)
    values = patches.pixels.reshape(len(patches), -1, 3) / 255
    return ((values - p.mean) / p.std).reshape(len(patches), -1)


@settings(max_examples=EXAMPLES)
@given(DIRECTORIES)
def _check(drawn: dict[str, Any]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="naflex-directory-"))
    try:
        true = write(directory, drawn)
        try:
            checkpoint = read(directory)
        except CheckpointError:
            OUTCOMES["refused"] += 1
            return
        OUTCOMES["read"] += 1
        theirs = their_model(directory, drawn["kind"])
        if theirs is None:  # because of names or files that are ours to understand: the model that was saved is meant
            OUTCOMES["read, transformers does not load it"] += 1
            theirs = CLASSES[drawn["kind"]](base(drawn["kind"], drawn["seed"]).config)
            theirs.load_state_dict({name: tensor.float() for name, tensor in true.items()})
        assert checkpoint.digest() == read(theirs).digest()
        pixels = their_pixels(directory)
        stated = drawn["nested"] if drawn["nested"] is not None else drawn["own"]
        if pixels is None:
            # transformers has no default without a file or a class, and Pillow's processor takes no list of one.
            lists = [stated.get(name) for name in ("image_mean", "image_std")] if stated else []
            assert stated is None or "image_processor_type" not in stated or [0.5] in lists
        else:
            found = our_pixels(checkpoint)
            assert found.shape == pixels.shape
            assert np.abs(found - pixels).max() <= 1e-6 * max(1.0, float(np.abs(pixels).max()))
    finally:
        shutil.rmtree(directory)


@pytest.mark.filterwarnings("ignore")
def test_random_directories() -> None:
    OUTCOMES.clear()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it lists every tensor that it does not find
    try:
        _check()
    finally:
        logging.set_verbosity(verbosity)
    print(dict(OUTCOMES))
    assert OUTCOMES["read"] >= EXAMPLES // 5
    assert OUTCOMES["refused"] >= EXAMPLES // 5
