"""Group prepared images into packs. The images of a frame share one where they fit, so its results arrive together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.packing.packer import balanced, pack_lengths
from naflex_deploy.runtime.packing.prepared import Prepared


@dataclass(frozen=True)
class PackMaker:
    """Makes packs within their limits.

    Attributes:
        tokens: Maximum number of tokens per pack.
        images: Maximum number of images per pack.
        prefix: Number of prefix tokens per image.
    """

    tokens: int
    images: int
    prefix: int = 0

    def taken(self, members: Iterable[Prepared]) -> int:
        """Number of tokens that these images take up in a pack."""
        return sum(self.prefix + len(item.patches) for item in members if item.patches)

    def pack(self, members: Iterable[Prepared]) -> Pack:
        """Lay images out in one pack, without a tail."""
        return Pack.of([item.patches for item in members if item.patches], prefix=self.prefix)

    def packs(self, images: Sequence[Prepared]) -> list[list[Prepared]]:
        """Distribute the images over packs, the emptiest pack last."""
        groups, shares = self._groups(images)
        packs = [_flat(groups, chosen) for chosen in pack_lengths(shares, self.tokens, self.images)]
        return sorted(packs, key=self.taken, reverse=True)

    def even_packs(self, images: Sequence[Prepared], workers: int) -> list[list[Prepared]] | None:
        """Distribute the images over packs of nearly equal size, the same number for each worker.

        Returns:
            The packs; ``None`` where the images do not divide evenly.
        """
        groups, shares = self._groups(images)
        count = workers * max(1, math.ceil(self.taken(images) / (workers * self.tokens)))
        found = balanced(shares, count, self.tokens, self.images)
        if found is None or not all(found):
            return None
        return [_flat(groups, sorted(chosen)) for chosen in found]

    def _groups(self, images: Sequence[Prepared]) -> tuple[list[list[Prepared]], list[int]]:
        """Groups of images that must share a pack, and the number of tokens that each group takes up."""
        frames: dict[tuple[int, int], list[Prepared]] = {}
        for item in images:
            frames.setdefault((item.result.input, item.result.frame), []).append(item)
        groups: list[list[Prepared]] = []
        for own in frames.values():
            fits = self.taken(own) <= self.tokens and len(own) <= self.images
            groups += [own] if fits else [[image] for image in own]
        shares = [self.taken(group) for group in groups]
        if len(groups) < len(images):
            # The packer counts a group as one image, so express the limit on images in tokens.
            of_images = [math.ceil(len(group) * self.tokens / self.images) for group in groups]
            shares = list(map(max, shares, of_images))
        return groups, shares


def _flat(groups: Sequence[Sequence[Prepared]], chosen: Iterable[int]) -> list[Prepared]:
    return [image for index in chosen for image in groups[index]]
