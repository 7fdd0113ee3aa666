"""Directories as people save them, each compared with the library that wrote it, or refused: rows of a table."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Siglip2ForImageClassification,
    Siglip2Model,
    Siglip2VisionModel,
)
from transformers.pipelines.image_classification import ImageClassificationPipeline

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.text_checkpoint import read_text
from naflex_deploy.compiler.head import make_head
from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.profile import HeadSection, ImageSection
from naflex_deploy.runtime.images.cutting import Cutter
from naflex_deploy.runtime.results.classes import rank
from tests.support import naflexvit, siglip2
from tests.support.packs import assert_parity, random_images, run
from tests.support.two_towers import LENGTH, TEXTS, tokenizer, two_towers
from tests.support.weights import reseed

FEW = {"num_hidden_layers": 2}
IMAGES = random_images([(1, 5), (20, 3), (4, 6)], 8)
NARROW = {"embed_dim": 96, "depth": 2, "num_heads": 3}


@dataclass(frozen=True)
class Kind:
    """One kind of directory.

    Attributes:
        group, name: What it is.
        against: What it is compared with.
        outcome: The largest error, or the refusal.
    """

    group: str
    name: str
    against: str
    outcome: str


def rows() -> Iterator[Kind]:
    """Every kind, in groups."""
    warnings.simplefilter("ignore")
    for group in GROUPS.values():
        with tempfile.TemporaryDirectory() as folder:
            yield from group(Path(folder))


def section() -> str:
    """The table of all kinds, in Markdown."""
    head = ("group", "directory", "compared with", "error, or the refusal")
    lines = [head, ("---",) * len(head), *((row.group, row.name, row.against, row.outcome) for row in rows())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(group: str, name: str, against: str, compare: Callable[[], float], folder: Path) -> Kind:
    try:
        outcome = f"{compare():.1e}"
    except NaflexError as error:
        message = error.message.replace(str(folder), "").lstrip("/")
        outcome = f"refused: {message.partition(': ')[2] or message}"
    return Kind(group, name, against, outcome.replace("|", "/"))


def _parity(spec: Path, original: nn.Module, lora: Path | None = None) -> float:
    """The largest error of pooled, tokens and logits on the same pixels."""
    checkpoint = read(spec, lora)
    names = [name for name in ("pooled", "tokens", "logits") if name in checkpoint.architecture.outputs]
    is_timm = isinstance(original, timm.models.naflexvit.NaFlexVit)
    golden = (naflexvit if is_timm else siglip2).golden(original, _images(checkpoint.preprocessing.patch_size))
    ours = run(checkpoint.model(names), _images(checkpoint.preprocessing.patch_size))
    return assert_parity(ours, golden, tolerance=float("inf"))


def _images(side: int) -> Sequence[Any]:
    return IMAGES if side == 8 else random_images([(1, 5), (20, 3), (4, 6)], side)


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not None}))


def _files(folder: Path) -> Iterator[Kind]:
    model = siglip2.small(Siglip2VisionModel, **FEW)
    other = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    for name, options, stray in (
        ("`model.safetensors`", {}, ""),
        ("with an averaged copy, `model_ema.safetensors`", {}, "model_ema.safetensors"),
        ("with `open_clip_model.safetensors`", {}, "open_clip_model.safetensors"),
        ("with `model.fp16.safetensors`", {}, "model.fp16.safetensors"),
        ("an index and its shards", {"max_shard_size": "300KB"}, ""),
        ("with a shard of an older save", {"max_shard_size": "300KB"}, "model-00001-of-00009.safetensors"),
        ("a shard is missing", {"max_shard_size": "300KB"}, "-"),
        ("several files, none called `model.safetensors`", {}, "b.safetensors"),
    ):
        path = folder / str(abs(hash(name)))
        model.save_pretrained(path, **options)
        if stray == "-":
            max(path.glob("*.safetensors")).unlink()
        elif stray:
            save_file(other, path / stray)
        if stray == "b.safetensors":
            (path / "model.safetensors").rename(path / "a.safetensors")
        loaded = stray not in ("-", "b.safetensors")
        original = Siglip2VisionModel.from_pretrained(path).eval() if loaded else model
        yield _row("files", name, "transformers", lambda path=path, m=original: _parity(path, m), folder)


def _names(folder: Path) -> Iterator[Kind]:
    model = siglip2.small(Siglip2ForImageClassification, **FEW)
    for prefix in ("_orig_mod.", "module.", "model.", "ema_model.", "module._orig_mod."):
        path = folder / prefix.strip(".")
        model.save_pretrained(path)
        tensors = load_file(path / "model.safetensors")
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, path / "model.safetensors")
        yield _row(
            "names", f"`{prefix}` before every tensor", "the model saved", lambda p=path: _parity(p, model), folder
        )


def _preprocessing(folder: Path) -> Iterator[Kind]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 50, 3), np.uint8))
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}

    def compare(path: Path) -> float:
        p = read(path).preprocessing
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        theirs = processor(images=[image], max_num_patches=48, return_tensors="np")
        cutter = Cutter(ImageSection(tokens=48, fit="fill"), p, 48)
        found = cutter.patches(image, cutter.layout((31, 50)).whole).pixels
        ours = (found.reshape(len(found), -1, 3) / 255 - p.mean) / p.std
        expected = theirs["pixel_values"][0][: len(found)]
        return float(np.abs(ours.reshape(len(found), -1) - expected).max() / np.abs(expected).max())

    for name, file, settings in (
        ("ImageNet's mean, bicubic, in `preprocessor_config.json`", "preprocessor_config.json", imagenet),
        ("the same in `processor_config.json`", "processor_config.json", imagenet),
        ("`do_normalize` false", "preprocessor_config.json", {"do_normalize": False}),
        ("`do_rescale` false", "preprocessor_config.json", {"do_rescale": False}),
        ("`rescale_factor` 1/127.5", "preprocessor_config.json", {"rescale_factor": 1 / 127.5} | imagenet),
        ("one number for mean and deviation", "preprocessor_config.json", {"image_mean": 0.4, "image_std": 0.3}),
        ("`do_resize` false", "preprocessor_config.json", {"do_resize": False}),
        ("`resample` 1 (Lanczos)", "preprocessor_config.json", {"resample": 1}),
        ("`resample` by name", "preprocessor_config.json", {"resample": "bicubic"}),
        ("another class", "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}),
    ):
        path = folder / str(abs(hash(name)))
        siglip2.small(Siglip2VisionModel, **FEW).save_pretrained(path)
        content = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8} | settings
        (path / file).write_text(json.dumps({"image_processor": content} if file.startswith("processor") else content))
        yield _row("preprocessing", name, "transformers (Pillow)", lambda path=path: compare(path), folder)


def _adapters(folder: Path) -> Iterator[Kind]:
    for name, options in (
        ("LoRA", {}),
        ("rsLoRA", {"use_rslora": True}),
        ("gaussian", {"init_lora_weights": "gaussian"}),
        ("orthogonal", {"init_lora_weights": "orthogonal", "r": 4}),
        ("patterns of rank and alpha", {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 2}}),
        ("with biases", {"bias": "all"}),
        ("PiSSA", {"init_lora_weights": "pissa"}),
        ("OLoRA", {"init_lora_weights": "olora"}),
        ("CorDA", {"then": "corda"}),
        ("LoftQ", {"then": "loftq"}),
        ("LoRA-GA", {"then": "lora_ga"}),
        ("DoRA", {"use_dora": True}),
    ):
        path = folder / str(abs(hash(name)))
        base = siglip2.small(Siglip2VisionModel, **FEW)
        base.save_pretrained(path / "base")
        stated = {key: value for key, value in options.items() if key != "then"}
        config = LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj", "fc1"]} | stated)
        adapted = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        adapted.save_pretrained(str(path / "adapter"))
        if "then" in options:
            _edit(path / "adapter" / "adapter_config.json", init_lora_weights=options["then"])
        merged = adapted.merge_and_unload().eval()
        yield _row(
            "adapters", name, "peft, merged", lambda p=path, m=merged: _parity(p / "base", m, p / "adapter"), folder
        )


def _heads(folder: Path) -> Iterator[Kind]:
    def compare(path: Path) -> float:
        head = make_head(HeadSection(), read(path))
        model = Siglip2ForImageClassification.from_pretrained(path)
        logits = np.random.default_rng(0).normal(0, 3, model.config.num_labels).astype(np.float32)
        pipeline = type("Pipeline", (), {"model": model, "framework": "pt"})
        expected = ImageClassificationPipeline.postprocess(pipeline, {"logits": torch.from_numpy(logits)[None]})
        assert head is not None
        found = rank(logits, head, 5)
        assert [item.name for item in found] == [item["label"] for item in expected]
        return max(abs(ours.score - theirs["score"]) for ours, theirs in zip(found, expected, strict=True))

    for name, outputs, changes in (
        ("several classes", 3, {}),
        ("`multi_label_classification`", 3, {"problem_type": "multi_label_classification"}),
        ("one output", 1, {}),
        ("one output, `regression`", 1, {"problem_type": "regression"}),
        ("a gap in `id2label`", 3, {"id2label": {"0": "a", "2": "c"}}),
    ):
        path = folder / str(abs(hash(name)))
        model = siglip2.small(Siglip2ForImageClassification, **FEW)
        model.classifier = nn.Linear(96, outputs)
        model.config.id2label = {index: f"name {index}" for index in range(outputs)}
        model.config.label2id = {label: index for index, label in model.config.id2label.items()}
        model.save_pretrained(path)
        _edit(path / "config.json", **changes)
        yield _row("heads", name, "transformers' pipeline", lambda path=path: compare(path), folder)


def _texts(folder: Path) -> Iterator[Kind]:
    model = two_towers()

    def compare(path: Path) -> float:
        rows = AutoTokenizer.from_pretrained(path)(
            TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        with torch.inference_mode():
            expected = Siglip2Model.from_pretrained(path).get_text_features(**rows).pooler_output
        return float((read_text(path).vectors(TEXTS) - expected).abs().max() / expected.abs().max())

    for name, changes in (
        ("padded right, as published", {}),
        ("no `padding_side`", {"padding_side": None}),
        ("without a mask (`model_input_names`)", {"model_input_names": ["input_ids"]}),
        ("`truncation_side` left", {"truncation_side": "left"}),
    ):
        path = folder / str(abs(hash(name)))
        model.save_pretrained(path)
        tokenizer().save_pretrained(path)
        _edit(path / "tokenizer_config.json", **changes)
        yield _row("texts", name, "transformers", lambda path=path: compare(path), folder)


def _timm(folder: Path) -> Iterator[Kind]:
    for name, architecture, options in (
        ("`naflexvit_base_patch16_gap`", "naflexvit_base_patch16_gap", {"num_classes": 3}),
        ("classic ViT, `use_naflex=True`", "vit_tiny_patch16_224", {"num_classes": 3, "use_naflex": True}),
        ("DINOv2 with registers, the same", "vit_small_patch14_reg4_dinov2", {"num_classes": 0, "use_naflex": True}),
        ("EVA02, the same", "eva02_tiny_patch14_224", {"num_classes": 3, "use_naflex": True}),
        ("DINOv3, the same", "vit_small_plus_patch16_dinov3", {"num_classes": 0, "use_naflex": True}),
        ("`in_chans` 4", "naflexvit_base_patch16_gap", {"num_classes": 3, "in_chans": 4}),
        ("classic ViT", "vit_tiny_patch16_224", {"num_classes": 3}),
    ):
        path = folder / str(abs(hash(name)))
        model = reseed(timm.create_model(architecture, **NARROW, **options)).eval()
        arguments = NARROW | {key: value for key, value in options.items() if key != "num_classes"}
        save_for_hf(model, path, model_args=arguments, safe_serialization=True)
        yield _row("timm", name, f"timm {timm.__version__}", lambda p=path, m=model: _parity(p, m), folder)


def _quantised(folder: Path) -> Iterator[Kind]:
    model = siglip2.small(Siglip2VisionModel, **FEW)
    model.save_pretrained(folder / "int8")
    shutil.copytree(folder / "int8", folder / "stated")
    path = folder / "int8" / "model.safetensors"
    name = "encoder.layers.0.mlp.fc1.weight"
    save_file(load_file(path) | {name: torch.ones(192, 96, dtype=torch.int8)}, path)
    _edit(folder / "stated" / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    yield _row("quantised", "integer weights", "", lambda: _parity(folder / "int8", model), folder)
    yield _row("quantised", "`quantization_config`", "", lambda: _parity(folder / "stated", model), folder)


GROUPS: dict[str, Callable[[Path], Iterator[Kind]]] = {
    "files": _files,
    "names": _names,
    "preprocessing": _preprocessing,
    "adapters": _adapters,
    "heads": _heads,
    "texts": _texts,
    "timm": _timm,
    "quantised": _quantised,
}
