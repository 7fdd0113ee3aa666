"""Quick calibrations of graphs that are in no bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.profile import Method


def observed(
    portable: Path, images: Sequence[Patches], prefix: int = 0, method: Method = "percentile", held_out: int = 0
) -> QuantSpec:
    """A calibration from these images, of which the last ``held_out`` are kept for measuring."""
    seen, kept = images[: len(images) - held_out], images[len(images) - held_out :]
    observer = Observer(portable)
    sites: dict[str, SiteObservation] = {}
    for image in seen:
        for names, values in observer.activations(Pack.of([image], prefix=prefix)):
            found = SiteObservation.of(values)
            sites |= dict.fromkeys(names, sites[names[0]].merged(found) if names[0] in sites else found)
    return QuantSpec({}, method, 0, (), sites, tuple(kept), tuple(seen))
