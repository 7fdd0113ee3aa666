"""What some images say of a graph that is in no bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from naflex_deploy.build.quantize.observation import SiteObservation
from naflex_deploy.build.quantize.observer import Observer
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.packer import pack_lengths

BUDGET, MAX_IMAGES = 1024, 64


def observed(portable: Path, images: Sequence[Patches], prefix: int = 0) -> dict[str, SiteObservation]:
    """What every linear layer reads, by site."""
    observer = Observer(portable)
    sites: dict[str, SiteObservation] = {}
    for members in pack_lengths([len(image) + prefix for image in images], BUDGET, MAX_IMAGES):
        for names, values in observer.activations(Pack.of([images[index] for index in members], prefix=prefix)):
            seen = SiteObservation.of(values)
            sites |= dict.fromkeys(names, sites[names[0]].merged(seen) if names[0] in sites else seen)
    return sites
