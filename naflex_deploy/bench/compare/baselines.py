"""Baselines for packing: other ways to run images of different sizes on the same engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Resampling

from naflex_deploy.bench.compare.wrapping import wrapped
from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.pack import Pack, Patches, on_grid
from naflex_deploy.runtime.backends.session import Outputs, Session
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.decode import decode
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.packing.grouping import PackMaker
from naflex_deploy.runtime.packing.packer import smallest_budget
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.packing.prepared import Prepared

BASELINES = ("padded", "square", "one-at-a-time")


class TailedSession:
    """Gives packs a tail before it runs them.

    Args:
        session: Session that runs the packs.
        tokens: Gives the number of tokens that a pack has with its tail.
    """

    def __init__(self, session: Session, tokens: Callable[[Pack], int]) -> None:
        self._session, self._tokens = session, tokens

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        tokens = self._tokens(pack)
        patches = np.zeros((tokens, pack.patches.shape[1]), pack.patches.dtype)
        patches[: pack.tokens] = pack.patches
        found = self._session.run(Pack(patches, pack.grid_hw, pack.offsets, pack.prefix, pack.slots), outputs)
        return {
            name: values[: pack.tokens * len(values) // tokens] if on_grid(name) else values
            for name, values in found.items()
        }


def tailed(session: Session, tokens: Callable[[Pack], int]) -> Session:
    """A session that runs packs with a tail; see `TailedSession`."""
    return wrapped(session, lambda one: TailedSession(one, tokens))


class PaddedEngine(Engine):
    """Pads every image to the same length, as a batch of images does.

    The padding is the tail of a pack, whose tokens pass through all linear layers but not through attention. A real
    batch, whose attention masks padding but still computes it, is no faster.

    Args:
        session, manifest, variant: As for `Engine`.
        longest: Number of tokens to which every image is padded.
    """

    def __init__(self, session: Session, manifest: Manifest, variant: Variant, longest: int) -> None:
        super().__init__(tailed(session, lambda pack: pack.images * longest), manifest, variant)
        self._maker = _PaddedPacks(self._maker.tokens, self._maker.images, self._maker.prefix, longest)


@dataclass(frozen=True)
class _PaddedPacks(PackMaker):
    """Makes packs as if every image were as long as the longest."""

    longest: int = 0

    def taken(self, members: Iterable[Prepared]) -> int:
        return self.longest * sum(item.patches is not None for item in members)


class SquareEngine(Engine):
    """Resizes every image to the largest square, whatever its shape, as models of a fixed resolution need it.

    Its results differ from those of NaFlex, because the aspect ratio is lost.
    """

    def __init__(self, session: Session, manifest: Manifest, variant: Variant) -> None:
        super().__init__(session, manifest, variant)
        tokens = manifest.config.image_tokens(variant.backend, manifest.model.prefix)
        side = int(tokens**0.5) * manifest.preprocessing.patch_size
        self._prepare = _Squares(manifest, variant, side)


class _Squares(Preparer):
    def __init__(self, manifest: Manifest, variant: Variant, side: int) -> None:
        super().__init__(manifest.preprocessing, manifest.config, variant.backend, manifest.model.prefix)
        self._size, self._most = (side, side), manifest.config.image.max_pixels
        self._filter = Resampling[manifest.preprocessing.resample.upper()]

    def __call__(self, index: int, source: Source | Input | Patches) -> Iterator[list[Prepared]]:
        if isinstance(source, Patches):
            yield from super().__call__(index, source)
            return
        pixels = source.source if isinstance(source, Input) else source
        if isinstance(pixels, NaflexError):
            raise pixels
        for image in decode(pixels, max_pixels=self._most):
            yield from super().__call__(index, image.resize(self._size, self._filter))


def baseline(name: str, session: Session, manifest: Manifest, variant: Variant, longest: int) -> Engine:
    """An engine that works like a baseline.

    Args:
        name: One of `BASELINES`.
        session: Session of the engine that is measured.
        manifest: Manifest of its bundle.
        variant: Variant that the session runs.
        longest: Number of tokens of the longest image in the mix, including prefix tokens.
    """
    match name:
        case "padded":
            return PaddedEngine(session, manifest, variant, longest)
        case "square":
            return SquareEngine(session, manifest, variant)
        case "one-at-a-time":
            return Engine(session, with_config(manifest, "packing", max_images=1), variant)
    raise UsageError(f"no baseline named '{name}'", hint=f"known: {', '.join(BASELINES)}")


def rounded(session: Session, budgets: Sequence[int]) -> Session:
    """A session that rounds packs up to the smallest budget that fits, as engines with fixed shapes do."""
    return tailed(session, lambda pack: smallest_budget(pack.tokens, budgets))


def with_config(manifest: Manifest, section: str, **values: object) -> Manifest:
    """A copy of the manifest with other values in a section of its profile."""
    part = getattr(manifest.config, section).model_copy(update=values)
    return manifest.model_copy(update={"config": manifest.config.model_copy(update={section: part})})
