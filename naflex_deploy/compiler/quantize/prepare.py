"""Quantises a portable graph by its calibration: chooses the layers, and gathers activations to tune them on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.compiler.passes import graphs
from naflex_deploy.compiler.quantize.layers import groups
from naflex_deploy.compiler.quantize.levels import Float32, Kind
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.quantization import Quantization, quantize
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.errors import CalibrationError
from naflex_deploy.core.pack import Pack, Patches

ROWS = 16384
"""Largest number of rows kept of each activation."""
BYTES = 2**30
"""Largest size of all kept activations together."""
OUTSIDE_BLOCKS = frozenset({"embed", "pool.out", "pool.mlp.fc1", "pool.mlp.fc2", "representation", "classifier"})
"""Layers that run in 8 bits only if a sensitivity analysis allows it. The pool's projections of query, key and value
are not among them, because lowerings fold these into other products."""


def prepare(
    portable: Path,
    spec: QuantSpec,
    kind: Kind,
    prefix: int,
    sites: Collection[str] | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> Quantization:
    """Quantise a model.

    Args:
        portable: The portable graph.
        spec: The calibration of the graph.
        kind: Kind of levels for activations.
        prefix: Prefix tokens of the model.
        sites: Sites to quantise. The default is `default_sites`, or, after a sensitivity analysis, all
            `possible_sites` that it did not find to need float.
        report: Called with a line at the start of each step, which says how far the work is.

    Raises:
        CalibrationError: The calibration has no samples, lacks a site, or leaves every site in float.
    """
    if not spec.tuning_samples:
        raise CalibrationError("the calibration holds no images to tune on", hint="calibrate again with this version")
    model = graphs.read(portable)
    if sites is not None:
        chosen = set(sites)
    elif spec.float_sites is not None:
        chosen = possible_sites(model) - set(spec.float_sites)
    else:
        chosen = default_sites(model)
    found = [group for group in groups(model) if group.site in chosen]
    if not found:
        raise CalibrationError("the calibration leaves nothing to quantise", hint="build in a higher precision")
    rows = min(ROWS, BYTES // (4 * sum(len(next(iter(group.layers.values())).weight) for group in found)))
    report(f"gathering {len(found)} activations on {len(spec.tuning_samples)} images")
    activations = gather(portable, [group.site for group in found], spec.tuning_samples, prefix, rows)
    return quantize(model, spec, kind, chosen, activations, report)


def default_sites(model: graphs.Model) -> set[str]:
    """The inputs of every linear layer in a block, which make up nearly all of the work."""
    return {group.site for group in groups(model) if group.site.startswith("blocks.")}


def possible_sites(model: graphs.Model) -> set[str]:
    """`default_sites`, and the inputs of `OUTSIDE_BLOCKS`."""
    outside = {group.site for group in groups(model) if OUTSIDE_BLOCKS.issuperset(group.layers)}
    return default_sites(model) | outside


def gather(
    portable: Path, sites: Collection[str], images: Sequence[Patches], prefix: int, rows: int
) -> dict[str, Float32]:
    """Run images through the float graph, and keep the same number of rows from each image's activations.

    Args:
        portable: The portable graph.
        sites: Sites of the activations; any name of a site will do.
        images: Images to run, one by one.
        prefix: Prefix tokens of the model.
        rows: Largest number of rows to keep of each activation, though at least one per image is kept.

    Returns:
        The rows by site, [N, D].
    """
    observer = Observer(portable)
    kept: dict[str, list[Float32]] = {site: [] for site in sites}
    rng = np.random.default_rng(0)
    for image in images:
        for names, values in observer.activations(Pack.of([image], prefix=prefix)):
            for site in kept.keys() & names:
                kept[site].append(values[_some(rng, len(values), max(1, rows // len(images)))])
    # Sites are concatenated one by one, so that only one is in memory twice.
    return {site: np.concatenate(kept.pop(site)) for site in sites}


def _some(rng: np.random.Generator, count: int, most: int) -> npt.NDArray[np.int64]:
    return np.sort(rng.choice(count, min(count, most), replace=False))
