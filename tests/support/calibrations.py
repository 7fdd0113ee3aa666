"""Calibrations of small models, observed through the float graph in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from naflex_deploy.build.passes.graphs import read
from naflex_deploy.build.quantize.layers import groups, site_of
from naflex_deploy.build.quantize.observation import SiteObservation
from naflex_deploy.build.quantize.prepare import gather
from naflex_deploy.build.quantize.spec import QuantSpec
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.profile import Method


def observed(
    portable: Path, images: Sequence[Patches], prefix: int = 0, method: Method = "percentile", held_out: int = 0
) -> QuantSpec:
    """What these images say of every linear layer; the last ``held_out`` are kept for measuring."""
    seen, kept = images[: len(images) - held_out], images[len(images) - held_out :]
    found = groups(read(portable))
    rows = gather(portable, {group.site: group.x.name for group in found}, seen, prefix, 2**20)
    sites = {}
    for group in found:
        observation = SiteObservation.of(rows[group.site])
        sites |= {site_of(name): observation for name in group.layers}
    return QuantSpec({}, method, 0, (), sites, tuple(kept), tuple(seen))
