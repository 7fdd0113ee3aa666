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
from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.preprocessing import Preprocessing, Triple

CLASSES = ("Siglip2ImageProcessor", "Lfm2VlImageProcessor")
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
    values = _values(directory, source)
    _check_class(values, config)
    if values.values.get("patch_size", patch_size) not in (patch_size, None):
        raise CheckpointError(
            f"{source}: {values.place} has patch_size {values.values['patch_size']}, config.json {patch_size}",
            hint="the two files belong to different models",
        )
    if not values.flag("do_resize", True):
        raise values.wrong("do_resize", "true: images are resized to the tokens that a profile gives them")
    if values.values.get("do_convert_rgb") is not None and values.flag("do_convert_rgb", False) and channels == 1:
        raise values.wrong("do_convert_rgb", "false, as the model has num_channels = 1")
    resample = values.values.get("resample", 2)
    if type(resample) is not int or resample not in FILTERS:
        raise values.wrong("resample", "2 (bilinear) or 3 (bicubic)")
    mean, std, names = _normalisation(values, channels)
    preprocessing = Preprocessing(
        patch_size=patch_size, mean=mean, std=std, resample=FILTERS[resample], channels=1 if channels == 1 else 3
    )
    return preprocessing, {
        "patch_size": "config.json: patch_size",
        "mean": values.origin("image_mean", *names),
        "std": values.origin("image_std", *names),
        "resample": values.origin("resample"),
        "channels": "config.json: num_channels",
        "search": f"as {values.library} has it",
    }


def _values(directory: Path | None, source: str) -> Values:
    """The settings that transformers takes: those inside the processor's file come before the image processor's own."""
    kind = "Siglip2ImageProcessor"
    if directory is None:
        return Values({}, source, "", kind)
    nested = load_json(directory / PROCESSOR_CONFIG, source, required=False).get(NESTED)
    if nested is None:
        own = load_json(directory / PREPROCESSOR_CONFIG, source, required=False)
        return Values(own, source, PREPROCESSOR_CONFIG, kind)
    if not isinstance(nested, dict):
        raise CheckpointError(
            f"{source}: {PROCESSOR_CONFIG}: {NESTED}: expected an object, found {type(nested).__name__}",
            hint="save the processor again",
        )
    return Values(nested, source, f"{PROCESSOR_CONFIG}: {NESTED}", kind)


def _check_class(values: Values, config: Mapping[str, Any]) -> None:
    stated = values.values.get("image_processor_type") or values.values.get("feature_extractor_type")
    stated = stated or config.get("image_processor_type")
    if stated is None:
        return
    name = str(stated).replace("FeatureExtractor", "ImageProcessor")
    if name.removesuffix("Fast").removesuffix("Pil") not in CLASSES:
        raise CheckpointError(
            f"{values.source}: {values.place}: image_processor_type = {stated!r} is not supported",
            hint=f"supported: {', '.join(CLASSES)}; another class prepares images in another way",
        )


def _normalisation(values: Values, channels: int) -> tuple[Triple, Triple, list[str]]:
    """Mean and deviation of three channels on a scale of 0…1, and the names of further settings folded into them."""
    names = [name for name in ("do_rescale", "rescale_factor", "do_normalize") if values.stated(name)]
    mean, std = (values.per_channel(name, (0.5,) * 3, channels) for name in ("image_mean", "image_std"))
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
