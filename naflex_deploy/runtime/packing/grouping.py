"""Which prepared images share a pack. Those of a frame do, where one holds them, so that its results come together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.packing.packer import balanced, pack_lengths
from naflex_deploy.runtime.packing.prepare import Prepared


@dataclass(frozen=True)
class PackMaker:
    """What a pack holds.

    Attributes:
        tokens: The most in all.
        images: The most.
        prefix: Prefix tokens of each image.
    """

    tokens: int
    images: int
    prefix: int = 0

    def taken(self, members: Iterable[Prepared]) -> int:
        """Tokens of images."""
        return sum(self.prefix + len(item.patches) for item in members if item.patches)

    def pack(self, members: Iterable[Prepared]) -> Pack:
        """Images laid out, without a tail."""
        return Pack.of([item.patches for item in members if item.patches], prefix=self.prefix)

    def packs(self, images: Sequence[Prepared]) -> list[list[Prepared]]:
        """All of them in packs, the emptiest last."""
        groups, shares = self._groups(images)
        packs = [_flat(groups, chosen) for chosen in pack_lengths(shares, self.tokens, self.images)]
        return sorted(packs, key=self.taken, reverse=True)

    def even_packs(self, images: Sequence[Prepared], workers: int) -> list[list[Prepared]] | None:
        """As packs of nearly one size, as many for each worker; ``None`` where they do not divide so."""
        groups, shares = self._groups(images)
        count = workers * max(1, math.ceil(self.taken(images) / (workers * self.tokens)))
        found = balanced(shares, count, self.tokens, self.images)
        if found is None or not all(found):
            return None
        return [_flat(groups, sorted(chosen)) for chosen in found]

    def _groups(self, images: Sequence[Prepared]) -> tuple[list[list[Prepared]], list[int]]:
        """Images that go into one pack, and how many tokens of its room each group takes."""
        frames: dict[tuple[int, int], list[Prepared]] = {}
        for item in images:
            frames.setdefault((item.result.input, item.result.frame), []).append(item)
        groups: list[list[Prepared]] = []
        for own in frames.values():
            fits = self.taken(own) <= self.tokens and len(own) <= self.images
            groups += [own] if fits else [[image] for image in own]
        shares = [self.taken(group) for group in groups]
        if len(groups) < len(images):
            # The limit on images as one on tokens, as a group counts as one image where packs are filled.
            of_images = [math.ceil(len(group) * self.tokens / self.images) for group in groups]
            shares = list(map(max, shares, of_images))
        return groups, shares


def _flat(groups: Sequence[Sequence[Prepared]], chosen: Iterable[int]) -> list[Prepared]:
    return [image for index in chosen for image in groups[index]]
