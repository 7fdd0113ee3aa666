"""The image processors that are read, one entry a class: its defaults, and how it sizes images.

Defaults are those of transformers 5.23; those of Phi-4-reasoning-vision, Isaac and Kimi are of the code that is
published with their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from naflex_deploy.compiler.checkpoints.values import Values
from naflex_deploy.core.preprocessing import Triple
from naflex_deploy.core.sizing import FillOwnCount, RoundUp, ShrinkAndPad, Sizing, SmartResize, SmartTiles

HALF: Triple = (0.5, 0.5, 0.5)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = 2, 3

MODEL_TYPES = {
    "cohere_compass": "CohereCompassImageProcessor",
    "cosmos3_edge": "Cosmos3EdgeImageProcessor",
    "cosmos3_omni": "Qwen2VLImageProcessor",
    "isaac": "IsaacImageProcessorFast",
    "kimi_k25": "Kimi_K25ImageProcessor",
    "kimi_vl": "KimiVLImageProcessor",
    "lfm2_vl": "Lfm2VlImageProcessor",
    "paddleocr_vl": "PaddleOCRVLImageProcessor",
    "phi4-siglip": "Siglip2ImageProcessorNoUpscale",
    "qwen3_5": "Qwen2VLImageProcessor",
    "qwen3_5_moe": "Qwen2VLImageProcessor",
    "qwen3_omni_moe": "Qwen2VLImageProcessor",
    "qwen3_omni_moe_thinker": "Qwen2VLImageProcessor",
    "qwen3_vl": "Qwen2VLImageProcessor",
    "qwen3_vl_moe": "Qwen2VLImageProcessor",
    "qwen4_exp": "Qwen2VLImageProcessor",
    "video_llama_3": "VideoLlama3ImageProcessor",
}
"""The class that transformers takes for a model whose files name none."""


@dataclass(frozen=True)
class Sized:
    """How a processor chooses sizes.

    Attributes:
        rule: ``None`` where it fills a number of tokens that the caller gives.
        merge: Patches a side of a block.
        names: Settings of the file that decide both.
        of_the_model: Those of ``config.json`` that decide in the place of settings that the file leaves out.
    """

    rule: Sizing | None
    merge: int
    names: tuple[str, ...] = ()
    of_the_model: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageProcessor:
    """A class of image processors.

    Attributes:
        size: Reads how it chooses sizes from its settings and those of the model.
        mean, std, resample: Where its file says nothing; the filter by Pillow's number.
        patch_size: The same; ``None`` where it follows the model.
        patch_name: Its name of the side of a patch.
        alone: Whether a directory may lack the file. Checkpoints of the others are published with settings that differ
            from the defaults of their class, so without the file their pixels are not known.
        padding: Colour of padding, ``None`` for the mean.
        antialias: Whether its filter antialiases.
        nested: Name of the object that holds the settings inside the file.
    """

    size: Callable[[Values, Mapping[str, Any]], Sized]
    mean: Triple = HALF
    std: Triple = HALF
    resample: int = BICUBIC
    patch_size: int | None = None
    patch_name: str = "patch_size"
    alone: bool = False
    padding: tuple[int, int, int] | None = None
    antialias: bool = True
    nested: str | None = None


def _fills(values: Values, config: Mapping[str, Any]) -> Sized:
    return Sized(None, 1)


def _smart(short: str, fewest: int, most: int, merge: int) -> Callable[[Values, Mapping[str, Any]], Sized]:
    """A reader of ``size`` and ``merge_size`` with the class's own defaults."""

    def read(values: Values, config: Mapping[str, Any]) -> Sized:
        size = values.values.get("size")
        if size is None:
            size = {"shortest_edge": fewest, "longest_edge": most}
        if not isinstance(size, Mapping) or not {"shortest_edge", "longest_edge"} <= set(size):
            raise values.wrong("size", "shortest_edge and longest_edge, in pixels of the whole image")
        sides = Values(size, values.source, f"{values.place}: size", values.library)
        least, largest = sides.integer("shortest_edge", fewest), sides.integer("longest_edge", most)
        if values.values.get("min_pixels") is not None:
            least = values.integer("min_pixels", fewest)
        if values.values.get("max_pixels") is not None:
            largest = values.integer("max_pixels", most)
        rule = SmartResize.model_validate({"min_pixels": least, "max_pixels": largest, "short": short})
        return Sized(rule, values.integer("merge_size", merge), ("size", "min_pixels", "max_pixels", "merge_size"))

    return read


def _lfm2_vl(values: Values, config: Mapping[str, Any]) -> Sized:
    patch, merge = values.integer("encoder_patch_size", 16), values.integer("downsample_factor", 2)
    token = (patch * merge) ** 2
    most = values.integer("max_image_tokens", 256) * token
    fewest = values.integer("min_image_tokens", 64) * token
    whole = SmartResize(min_pixels=fewest, max_pixels=most, short="block", aspect=None)
    least, largest = values.integer("min_tiles", 2), values.integer("max_tiles", 10)
    names = ("min_image_tokens", "max_image_tokens", "min_tiles", "max_tiles", "tile_size", "downsample_factor")
    if not values.flag("do_image_splitting", True) or least == largest == 1:
        return Sized(whole, merge, ("do_image_splitting", *names))
    if least > largest:
        raise values.wrong("min_tiles", f"at most max_tiles = {largest}")
    if not values.flag("use_thumbnail", True):
        raise values.wrong("use_thumbnail", "true: the thumbnail is the vector of the whole image")
    tile = values.integer("tile_size", 512)
    if tile % (patch * merge):
        raise values.wrong("tile_size", f"a multiple of {patch * merge}")
    large = most * values.number("max_pixels_tolerance", 2.0)
    rule = SmartTiles(whole=whole, large=large, tile=tile, min_tiles=least, max_tiles=largest)
    return Sized(rule, merge, (*names, "max_pixels_tolerance"))


def _kimi_k25(values: Values, config: Mapping[str, Any]) -> Sized:
    size = values.values.get("size", {"max_height": 512, "max_width": 512})
    if not isinstance(size, Mapping) or size.get("max_height") is None or size["max_height"] != size.get("max_width"):
        raise values.wrong("size", "max_height and max_width, equal to each other")
    sides = Values(size, values.source, f"{values.place}: size", values.library)
    rule = ShrinkAndPad(max_patches=values.integer("max_patches", 16384), max_side=sides.integer("max_height", 512))
    return Sized(rule, values.integer("merge_size", 2), ("size", "max_patches", "merge_size"))


def _kimi_k25_published(values: Values, config: Mapping[str, Any]) -> Sized:
    if values.values.get("fixed_output_tokens") is not None:
        raise values.wrong("fixed_output_tokens", "null: images have as many tokens as they need")
    patches, side = values.integer("in_patch_limit", 16384), values.integer("patch_limit_on_one_side", 512)
    names = ("in_patch_limit", "patch_limit_on_one_side", "merge_kernel_size")
    return Sized(ShrinkAndPad(max_patches=patches, max_side=side), values.square("merge_kernel_size", 2), names)


def _kimi_vl(values: Values, config: Mapping[str, Any]) -> Sized:
    if not values.flag("pad_input", False):
        raise values.wrong("pad_input", "true: images are padded, never cropped")
    # It refuses 512 patches a side and more, counted after padding. Such slivers are shrunk here.
    rule = ShrinkAndPad(max_patches=values.integer("in_token_limit", 4096), max_side=510)
    return Sized(rule, values.square("merge_kernel_size", 2), ("in_token_limit", "merge_kernel_size"))


def _phi4(values: Values, config: Mapping[str, Any]) -> Sized:
    fewest, most = values.integer("min_num_patches", 1), values.integer("max_num_patches", 256)
    return Sized(FillOwnCount(min_patches=fewest, max_patches=most), 1, ("min_num_patches", "max_num_patches"))


def _isaac(values: Values, config: Mapping[str, Any]) -> Sized:
    """Its limits are stated by the processor, or else by the model."""
    model = Values(config, values.source, "config.json", values.library)

    def stated(name: str, of_the_model: str, default: int) -> int:
        if values.values.get(name) is not None:
            return values.integer(name, default)
        return model.integer(of_the_model, default)

    fewest = None
    if (values.values.get("min_num_patches") or config.get("vision_min_num_patches")) is not None:
        fewest = stated("min_num_patches", "vision_min_num_patches", 1)
    rule = RoundUp(min_patches=fewest, max_patches=stated("max_num_patches", "vision_max_num_patches", 256))
    merge = stated("pixel_shuffle_scale", "pixel_shuffle_scale", 1)
    names = {
        "min_num_patches": "vision_min_num_patches",
        "max_num_patches": "vision_max_num_patches",
        "pixel_shuffle_scale": "pixel_shuffle_scale",
    }
    unstated = [of for name, of in names.items() if values.values.get(name) is None]
    return Sized(rule, merge, tuple(names), tuple(of for of in unstated if config.get(of) is not None))


BLACK = (0, 0, 0)
QWEN2_VL = ImageProcessor(_smart("keep", 56 * 56, 28 * 28 * 1280, 2), CLIP_MEAN, CLIP_STD, patch_size=14)
CLASSES: Mapping[str, ImageProcessor] = {
    "Siglip2ImageProcessor": ImageProcessor(_fills, resample=BILINEAR, alone=True),
    "Siglip2ImageProcessorNoUpscale": ImageProcessor(_phi4, resample=BILINEAR),
    "Lfm2VlImageProcessor": ImageProcessor(_lfm2_vl, resample=BILINEAR, patch_name="encoder_patch_size", alone=True),
    "CohereCompassImageProcessor": QWEN2_VL,
    "Qwen2VLImageProcessor": QWEN2_VL,
    "VideoLlama3ImageProcessor": ImageProcessor(_smart("keep", 56 * 56, 28 * 28 * 1280, 1), patch_size=14),
    "PaddleOCRVLImageProcessor": ImageProcessor(
        _smart("sides", 384**2, 1536**2, 2), CLIP_MEAN, CLIP_STD, patch_size=14
    ),
    "Cosmos3EdgeImageProcessor": ImageProcessor(_smart("scale", 256**2, 4096**2, 2), patch_size=16),
    "Kimi_K25ImageProcessor": ImageProcessor(_kimi_k25, patch_size=14, padding=BLACK),
    "KimiK25VisionProcessor": ImageProcessor(
        _kimi_k25_published, patch_size=14, padding=BLACK, nested="media_proc_cfg"
    ),
    "KimiVLImageProcessor": ImageProcessor(_kimi_vl, CLIP_MEAN, CLIP_STD, patch_size=14, padding=BLACK),
    "IsaacImageProcessor": ImageProcessor(_isaac, resample=BILINEAR, alone=True, antialias=False),
}
