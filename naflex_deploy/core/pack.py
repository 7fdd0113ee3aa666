"""A pack: the tokens of several images in one sequence. Every engine input is a view of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import isqrt
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Scalar = TypeVar("Scalar", bound=np.generic)


class Role(StrEnum):
    """What an engine input means. Manifests list inputs by role; the runtime binds roles to views of a pack."""

    PATCHES = "patches"
    COORDS = "coords"
    GRID_HW = "grid_hw"
    SEGMENT_IDS = "segment_ids"
    CU_SEQLENS = "cu_seqlens"
    TOKEN_KIND = "token_kind"
    PAD_INDEX = "pad_index"
    UNPAD_INDEX = "unpad_index"
    TOKEN_OFFSET = "token_offset"
    SLOT_LENGTHS = "slot_lengths"


def in_blocks(output: str) -> bool:
    """Whether an output has a row for each block of tokens, as a language model takes them."""
    return output == "vlm" or output.startswith("deepstack:")


def on_grid(output: str) -> bool:
    """Whether an output has a row for each token or block of tokens; other outputs have one for each image."""
    return output.startswith("tokens") or in_blocks(output)


@dataclass(frozen=True, eq=False)
class Patches:
    """One image, cut into patches.

    Attributes:
        pixels: [h·w, P·P·C] uint8 (or float32); each row is one patch in (row, column, channel) order.
        grid_hw: (h, w), rows and columns of patches.
    """

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    grid_hw: tuple[int, int]

    def __post_init__(self) -> None:
        height, width = self.grid_hw
        if height < 1 or width < 1 or self.pixels.ndim != 2 or len(self.pixels) != height * width:
            raise ValueError(f"a {height}x{width} grid needs {height * width} patches, found {self.pixels.shape}")

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Pack:
    """M images of Lᵢ tokens, one after another, then a tail up to a fixed size.

    Each image contributes ``prefix`` tokens (class and register tokens) followed by its h·w patches.
    Only ``patches``, ``grid_hw`` and ``offsets`` are stored; the views derive from them, so they
    cannot disagree.

    Attributes:
        patches: [T, P·P·C]; rows are zero at prefix tokens and in the tail.
        grid_hw: [M, 2] int32, rows and columns of each image's patch grid.
        offsets: [M+1] int64, first token of each image; ``offsets[M]`` is where the tail begins.
        prefix: Number of prefix tokens per image.
        slots: Number of images that an engine of fixed shape expects, ≥ M. Slots from M on hold no tokens.
    """

    patches: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    grid_hw: Int32
    offsets: npt.NDArray[np.int64]
    prefix: int = 0
    slots: int = 0

    def __post_init__(self) -> None:
        if self.slots < self.images:
            object.__setattr__(self, "slots", self.images)
        lengths = self.grid_hw.astype(np.int64).prod(axis=1) + self.prefix
        expected = np.concatenate([[0], np.cumsum(lengths)])
        if not np.array_equal(expected, self.offsets):
            raise ValueError(f"offsets {self.offsets.tolist()} do not follow from the grids: {expected.tolist()}")
        if self.tokens < self.offsets[-1]:
            raise ValueError(f"{self.offsets[-1]} tokens do not fit into {self.tokens} rows")

    @classmethod
    def of(cls, images: Sequence[Patches], *, prefix: int = 0, tokens: int | None = None, slots: int = 0) -> Pack:
        """Lay images one after another.

        Args:
            images: At least one image; all with the same patch width and dtype.
            prefix: Number of prefix tokens before each image's patches.
            tokens: Number of tokens of the pack, tail included; ``None`` for a pack without a tail.
            slots: Number of image slots of the engine; at least ``len(images)``.
        """
        grid_hw = np.array([image.grid_hw for image in images], np.int32).reshape(-1, 2)
        offsets = np.concatenate([[0], np.cumsum([len(image) + prefix for image in images])]).astype(np.int64)
        rows = int(offsets[-1]) if tokens is None else tokens
        first = images[0].pixels
        pack = cls(np.zeros((rows, first.shape[1]), first.dtype), grid_hw, offsets, prefix, slots)
        for start, image in zip(offsets + prefix, images, strict=False):
            pack.patches[start : start + len(image)] = image.pixels
        return pack

    @property
    def images(self) -> int:
        """Number of images, M."""
        return len(self.grid_hw)

    @property
    def tokens(self) -> int:
        """Number of tokens, T, tail included."""
        return len(self.patches)

    @property
    def useful_tokens(self) -> int:
        """Number of tokens that belong to an image."""
        return int(self.offsets[-1])

    @cached_property
    def segment_ids(self) -> Int32:
        """[T] int32: the image of each token; the tail has the segment after the last slot."""
        ids = np.full(self.tokens, self.slots, np.int32)
        ids[: self.useful_tokens] = np.repeat(np.arange(self.images, dtype=np.int32), np.diff(self.offsets))
        return ids

    @cached_property
    def _place(self) -> npt.NDArray[np.int64]:
        """[useful tokens]: position of each token inside its image, negative for prefix tokens."""
        lengths = np.diff(self.offsets)
        return np.arange(self.useful_tokens) - np.repeat(self.offsets[:-1] + self.prefix, lengths)

    @cached_property
    def coords(self) -> Int32:
        """[T, 2] int32: (row, column) of each patch in its grid; 0 at prefix tokens and in the tail."""
        coords = np.zeros((self.tokens, 2), np.int32)
        widths = np.repeat(self.grid_hw[:, 1], np.diff(self.offsets))
        coords[: self.useful_tokens] = np.stack(np.divmod(np.maximum(self._place, 0), widths), axis=1)
        return coords

    @cached_property
    def token_kind(self) -> Int32:
        """[T] int32: 0 for a patch (and the tail), k for the k-th prefix token."""
        kind = np.zeros(self.tokens, np.int32)
        place = self._place
        kind[: self.useful_tokens] = np.where(place < 0, place + self.prefix + 1, 0)
        return kind

    @cached_property
    def cu_seqlens(self) -> Int32:
        """[slots+1] int32: 0, L₁, L₁+L₂, …; unused slots are empty."""
        padding = np.full(self.slots - self.images, self.useful_tokens)
        return np.concatenate([self.offsets, padding]).astype(np.int32)

    def view(self, role: Role) -> npt.NDArray[np.generic]:
        """The engine input for a role, C-contiguous.

        ``grid_hw`` gets a (1, 1) row for every unused slot and for the tail: [slots+1, 2].
        """
        match role:
            case Role.PATCHES:
                return self.patches
            case Role.COORDS:
                return self.coords
            case Role.GRID_HW:
                rest = np.ones((self.slots + 1 - self.images, 2), np.int32)
                return np.concatenate([self.grid_hw, rest])
            case Role.SEGMENT_IDS:
                return self.segment_ids
            case Role.CU_SEQLENS:
                return self.cu_seqlens
            case Role.TOKEN_KIND:
                return self.token_kind
            case Role.PAD_INDEX | Role.UNPAD_INDEX | Role.TOKEN_OFFSET | Role.SLOT_LENGTHS:
                raise ValueError(f"{role} depends on an engine's rows, which its session lays out")

    def split(self, tokens: npt.NDArray[Scalar]) -> list[npt.NDArray[Scalar]]:
        """Split per-token outputs [T, D] into one [h, w, D] array per image, without prefix tokens and tail.

        Outputs of blocks of s×s tokens, [T/s², D] of a pack without a tail, become [h/s, w/s, D].

        Raises:
            ValueError: The rows are of no such blocks, or a grid does not divide into them.
        """
        block = self.tokens // max(len(tokens), 1)
        side = isqrt(block)
        if len(tokens) * side**2 != self.tokens or (side > 1 and (self.grid_hw % side).any()):
            raise ValueError(f"{len(tokens)} rows are not of blocks of {self.tokens} tokens on {self.grid_hw.tolist()}")
        starts, stops = (self.offsets[:-1] + self.prefix) // block, self.offsets[1:] // block
        return [
            tokens[start:stop].reshape(height // side, width // side, -1)
            for start, stop, (height, width) in zip(starts, stops, self.grid_hw.tolist(), strict=True)
        ]
