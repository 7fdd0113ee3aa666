"""Degrades a page as a scanner or camera does: rotation, blur, uneven light, a colour cast, noise, JPEG artefacts."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from naflex_deploy.demo.sheet import Sheet


def degrade(sheet: Sheet, rng: np.random.Generator) -> Image.Image:
    """The sheet as a scanner or a phone would capture it, at the same size."""
    image = sheet.image
    if rng.random() < 0.6:
        backdrop = tuple(rng.integers(0, 256, 3).tolist()) if rng.random() < 0.5 else sheet.paper
        image = image.rotate(rng.normal(0, 1.5), Image.Resampling.BILINEAR, fillcolor=backdrop)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.01, 0.05) * sheet.em))
    image = Image.fromarray(_light(image, rng))
    if rng.random() < 0.5:
        image = _jpeg(image, int(rng.integers(15, 80)))
    return image


def _light(image: Image.Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Apply a colour cast, a linear gradient of light across the page, and grain."""
    pixels = np.asarray(image, np.float32)
    height, width, _ = pixels.shape
    down, across = rng.normal(0, 0.08, 2)
    light = 1 + down * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = light + across * np.linspace(-1, 1, width, dtype=np.float32)
    pixels = pixels * light[..., None] * rng.uniform(0.86, 1.04, 3).astype(np.float32)
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(0, 12))
    result: npt.NDArray[np.uint8] = np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8)
    return result


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
