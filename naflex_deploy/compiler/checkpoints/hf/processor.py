"""How a transformers checkpoint wants its pixels: the image processor's settings, folded into a mean and a deviation.

A processor computes ``(x · rescale_factor - image_mean) / image_std`` on pixels x of 0…255, either step at will. On the
scale x/255 that is a mean of ``image_mean / (255 · rescale_factor)`` and a deviation of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from naflex_deploy.compiler.checkpoints.files.choice import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.compiler.checkpoints.hf.image_processors import CLASSES, MODEL_TYPES, ImageProcessor, Sized
from naflex_deploy.compiler.checkpoints.hf.video_processor import read_clip
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.preprocessing import Preprocessing, Triple

NESTED = "image_processor"
FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers. Names are refused: transformers takes every name, also ``bicubic``, for bilinear."""


def read_processor(
    directory: Path | None, config: Mapping[str, Any], patch_size: int, channels: int, source: str
) -> tuple[Preprocessing, dict[str, str]]:
    """What the image processor of a checkpoint does with pixels, and where each value was found.

    Args:
        directory: Holds its file; ``None`` for the default of its class.
        config: The model's own.
        patch_size, channels: The model's.
        source: For messages.

    Raises:
        CheckpointError: It is of another class, or a value has no counterpart here.
    """
    values, processor = _find(directory, config, source)
    _check_patch_size(values, processor, patch_size)
    if not values.flag("do_resize", True) and values.library != "Lfm2VlImageProcessor":  # which ignores it
        raise values.wrong("do_resize", "true: images are resized to the tokens that a profile gives them")
    if values.values.get("do_convert_rgb") is not None and values.flag("do_convert_rgb", False) and channels == 1:
        raise values.wrong("do_convert_rgb", "false, as the model has num_channels = 1")
    resample = values.values.get("resample", processor.resample)
    if type(resample) is not int or resample not in FILTERS:
        raise values.wrong("resample", "2 (bilinear) or 3 (bicubic)")
    mean, std, names = _normalisation(values, channels, processor)
    sized = processor.size(values, config)
    _check_merge(values, sized.merge, config)
    preprocessing = Preprocessing(
        patch_size=patch_size,
        mean=mean,
        std=std,
        resample=FILTERS[resample],
        channels=1 if channels == 1 else 3,
        antialias=processor.antialias,
        merge=sized.merge,
        sizing=sized.rule,
        padding=processor.padding,
        clip=read_clip(directory, config, source),
    )
    origins = {
        "patch_size": _of_the_model(config, "patch_size"),
        "mean": values.origin("image_mean", *names),
        "std": values.origin("image_std", *names),
        "resample": values.origin("resample"),
        "channels": _of_the_model(config, "num_channels"),
        "search": f"as {values.library} has it",
    }
    if sized.names:
        origins |= dict.fromkeys(("sizing", "merge"), _of_sizes(values, sized))
    return preprocessing, origins


def _of_the_model(config: Mapping[str, Any], name: str) -> str:
    """Where a value of the model came from, whose ``config.json`` may leave out what equals a default of its class."""
    vision = config.get("vision_config")
    stated = name in config or (isinstance(vision, Mapping) and name in vision)
    return f"config.json: {name}" if stated else f"default of models of type {config.get('model_type')}"


def _of_sizes(values: Values, sized: Sized) -> str:
    """Where the rule of sizes came from: the processor's file, the model's, or both."""
    places = [f"config.json: {', '.join(sized.of_the_model)}"] if sized.of_the_model else []
    if not places or any(values.stated(name) for name in sized.names):
        places.insert(0, values.origin(*sized.names))
    return "; ".join(places)


def _find(directory: Path | None, config: Mapping[str, Any], source: str) -> tuple[Values, ImageProcessor]:
    """The settings that transformers takes, and their class.

    Those inside the processor's file come before the image processor's own.
    """
    content, place = ({}, "") if directory is None else _load(directory, source)
    stated = content.get("image_processor_type") or content.get("feature_extractor_type")
    stated = stated or config.get("image_processor_type") or _mapped(content)
    kind = str(stated or MODEL_TYPES.get(str(config.get("model_type")), "Siglip2ImageProcessor"))
    name = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    processor = CLASSES.get(name)
    if processor is None:
        raise CheckpointError(
            f"{source}: {place}: image_processor_type = {stated!r} is not supported",
            hint=f"supported: {', '.join(CLASSES)}; another class prepares images in another way",
        )
    if processor.nested is not None:
        content, place = content.get(processor.nested, {}), f"{place}: {processor.nested}"
        if not isinstance(content, dict):
            raise CheckpointError(f"{source}: {place}: expected an object", hint="copy the processor's file again")
    if not content and not processor.alone:
        raise CheckpointError(
            f"{source}: expected {PREPROCESSOR_CONFIG} or {PROCESSOR_CONFIG} of a {name}, found neither",
            hint="copy the processor's files of the checkpoint into the directory; checkpoints differ in their pixels",
        )
    return Values(content, source, place, name), processor


def _load(directory: Path, source: str) -> tuple[dict[str, Any], str]:
    """The image processor's settings, and where they stand."""
    nested = load_json(directory / PROCESSOR_CONFIG, source, required=False).get(NESTED)
    if nested is None:
        return load_json(directory / PREPROCESSOR_CONFIG, source, required=False), PREPROCESSOR_CONFIG
    if not isinstance(nested, dict):
        raise CheckpointError(
            f"{source}: {PROCESSOR_CONFIG}: {NESTED}: expected an object, found {type(nested).__name__}",
            hint="save the processor again",
        )
    return nested, f"{PROCESSOR_CONFIG}: {NESTED}"


def _mapped(content: Mapping[str, Any]) -> str | None:
    """The class of code that is published with a checkpoint."""
    published = content.get("auto_map")
    name = published.get("AutoImageProcessor") if isinstance(published, Mapping) else None
    if isinstance(name, list | tuple):
        name = next((each for each in reversed(name) if each), None)
    return name.rpartition(".")[2] if isinstance(name, str) else None


def _check_patch_size(values: Values, processor: ImageProcessor, patch_size: int) -> None:
    found = values.values.get(processor.patch_name, processor.patch_size)
    if found not in (patch_size, None):
        raise CheckpointError(
            f"{values.source}: {values.place} has {processor.patch_name} {found}, config.json {patch_size}",
            hint="the two files belong to different models",
        )


def _check_merge(values: Values, merge: int, config: Mapping[str, Any]) -> None:
    """Grids of the processor must divide into the blocks that the model merges."""
    vision = config.get("vision_config")
    model = (vision.get("spatial_merge_size") if isinstance(vision, Mapping) else None) or config.get(
        "downsample_factor"
    )
    if isinstance(model, int) and model != merge and values.library != "VideoLlama3ImageProcessor":
        raise CheckpointError(
            f"{values.source}: {values.place} merges {merge}x{merge} patches, config.json {model}x{model}",
            hint="the two files belong to different models",
        )


def _normalisation(values: Values, channels: int, processor: ImageProcessor) -> tuple[Triple, Triple, list[str]]:
    """Mean and deviation of three channels on a scale of 0…1, and the names of further settings folded into them."""
    names = [name for name in ("do_rescale", "rescale_factor", "do_normalize") if values.stated(name)]
    mean = values.per_channel("image_mean", processor.mean, channels)
    std = values.per_channel("image_std", processor.std, channels)
    if channels == 1:
        mean, std = mean * 3, std * 3
    if min(std) <= 0:
        raise values.wrong("image_std", "positive numbers")
    factor = values.number("rescale_factor", 1 / 255)
    if not values.flag("do_rescale", True):
        factor = 1.0
    if not values.flag("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    scale = 255 * factor
    if scale == 1:
        names = [name for name in names if name == "do_normalize" and not values.values[name]]
    else:
        mean, std = (tuple(value / scale for value in triple) for triple in (mean, std))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), names
