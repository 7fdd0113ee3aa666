"""Tokens of images in the forms in which language models and their servers take them.

A language model has a number of placeholders in its prompt for each image, and puts the image's tokens in their place,
in order. Where an image is cut into tiles, the tokens of the tiles come first, row by row, and those of the whole image
last.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.results.result import Float, Result
from naflex_deploy.runtime.results.tokens import narrowed
from naflex_deploy.runtime.results.torch_file import torch_file

Narrow = Literal["bfloat16", "float16", "float32"]
"""Types in which tokens are handed over."""
VLM = "vlm"
DEEPSTACK = "deepstack:"
PIXELS_ALONE = {
    "vllm": (
        "vLLM 0.33.0",
        ("PaddleOCR-VL", "Kimi K2.5", "Kimi-VL", "LFM2-VL", "Phi-4-reasoning-vision", "Isaac", "VideoLLaMA3"),
    ),
    "sglang": ("SGLang 0.5.23", ("Kimi K2.5", "Phi-4-reasoning-vision", "Isaac", "VideoLLaMA3")),
}
"""Form → the server whose source was read, and the families whose tokens it does not take."""


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """What a language model gets of one image.

    Attributes:
        parts: [g, width] float32 tokens of each part of the image: of the whole image alone, or of its tiles and then
            of the whole.
        deepstack: For each block that the language model taps (DeepStack), the same.
        grids: (h, w), rows and columns of patches of each part.
        input: Index of the input that it is of, from 0.
        time: Of a frame of a clip, in seconds; of two that are taken together, the mean.
    """

    parts: tuple[Float, ...]
    deepstack: tuple[tuple[Float, ...], ...]
    grids: tuple[tuple[int, int], ...]
    input: int = 0
    time: float | None = None

    @classmethod
    def of(cls, images: Sequence[Result]) -> ImageTokens:
        """From the results of a frame, the whole image first, as `by_frame` groups them.

        Raises:
            NaflexError: A part has an error.
        """
        whole, *tiles = images
        ordered = (*tiles, whole)
        for part in ordered:
            if part.error is not None:
                raise part.error
        taps = sorted((name for name in whole.outputs if name.startswith(DEEPSTACK)), key=_tap)
        rows = {name: tuple(_rows(part, name) for part in ordered) for name in (VLM, *taps)}
        grids = tuple(part.grid_hw for part in ordered)
        return cls(rows[VLM], tuple(rows[name] for name in taps), grids, whole.input, whole.time)

    @property
    def placeholders(self) -> int:
        """Tokens that the image takes up in the prompt, those of all its parts."""
        return sum(map(len, self.parts))

    @property
    def grid_thw(self) -> npt.NDArray[np.int64]:
        """[parts, 3] int64: 1 and the grid of each part, as ``image_grid_thw`` of transformers."""
        return np.array([(1, h, w) for h, w in self.grids], np.int64)

    def features(self, dtype: npt.DTypeLike = np.float32) -> Any:
        """[g, width · (1 + taps)]: the tokens of all parts, those of the taps beside them.

        Args:
            dtype: As for `narrowed`, which gives ``bfloat16`` as uint16.

        Raises:
            UsageError: A value does not fit into ``dtype``.
        """
        every = [np.concatenate(parts) for parts in (self.parts, *self.deepstack)]
        return narrowed(np.concatenate(every, axis=1), dtype)


def check_placeholders(found: int, images: Sequence[ImageTokens]) -> None:
    """Refuse a prompt that has not one placeholder for each token.

    Args:
        found: Placeholders in the prompt.
        images: Of the prompt.

    Raises:
        UsageError: Their numbers differ; says how many tokens each image has.
    """
    expected = [image.placeholders for image in images]
    if found != sum(expected):
        raise UsageError(
            f"expected {sum(expected)} placeholders in the prompt for {len(images)} images of {expected} tokens, "
            f"found {found}",
            hint="repeat the placeholder of each image once for each of its tokens",
        )


def for_vllm(image: ImageTokens, dtype: Narrow = "float16") -> dict[str, Any]:
    """The part of a chat message that gives vLLM an image's tokens, for ``vllm serve --enable-mm-embeds``.

    Tensors are files of ``torch.save`` in base64: ``image_embeds`` [g, width · (1 + taps)] and ``image_grid_thw`` [3].
    vLLM stacks the grids of all parts of a request, and refuses any that have another rank.

    Raises:
        UsageError: The image was cut into tiles, or a value does not fit into ``dtype``.
    """
    if len(image.grids) != 1:
        raise UsageError(
            f"expected one grid for vLLM, found {len(image.grids)}: the image was cut into tiles",
            hint="vLLM takes no such tokens of the models that cut images; use embed --for sglang",
        )
    (grid,) = image.grid_thw
    files = {"image_embeds": torch_file(image.features(dtype), dtype), "image_grid_thw": torch_file(grid)}
    encoded = {name: base64.b64encode(file).decode("ascii") for name, file in files.items()}
    return {"type": "image_embeds", "image_embeds": encoded}


def for_sglang(image: ImageTokens, dtype: Narrow = "float16") -> Mapping[str, Any]:
    """An item of SGLang's ``image_data``; its arrays go through ``torch.from_numpy``, and bfloat16 through ``view``.

    SGLang also names a format ``precomputed_embedding``, whose ``feature`` most of its models run their tower on.

    Raises:
        UsageError: A value does not fit into ``dtype``.
    """
    return {
        "modality": "IMAGE",
        "format": "processor_output",
        "precomputed_embeddings": image.features(dtype),
        "image_grid_thw": image.grid_thw,
    }


def _rows(part: Result, name: str) -> Float:
    """[h, w, width] as rows, in the order of the language model."""
    values: Float = part.outputs[name]
    rows: Float = values.reshape(-1, values.shape[-1])
    return rows


def _tap(name: str) -> int:
    return int(name.removeprefix(DEEPSTACK))
