"""Measures the loss of each quantised site, and finds the fewest that have to stay float for the gate to hold.

Everything is measured on images with ONNX Runtime's int8 graph: with one site quantised and all others in float, with
one kind of site quantised in all blocks, with all sites of one block, and with all sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from naflex_deploy.compiler.golden_packs import image_packs
from naflex_deploy.compiler.passes.graphs import read
from naflex_deploy.compiler.quantize.layers import groups
from naflex_deploy.compiler.quantize.prepare import possible_sites, prepare
from naflex_deploy.compiler.quantize.quantization import Quantization
from naflex_deploy.compiler.quantize.spec import QuantSpec, numbered
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.bundle.golden import Float, Tolerance, shortfalls
from naflex_deploy.runtime.results.figures import Figures

BLOCK = re.compile(r"^blocks\.(\d+)\.(.*)$")
PACK_TOKENS = 1024
EVERYTHING = "everything"

Report = Callable[[str], None]

Runner = Callable[[Path, Quantization | None], Callable[[Pack], dict[str, Float]]]
"""Lowers and loads the portable graph, quantised if asked; returns a function from a pack to its outputs."""


@dataclass(frozen=True)
class Cost:
    """The cost of quantising only some sites.

    Attributes:
        name: Name of a site or of several, such as ``all mlp.fc2`` or ``block 3``.
        sites: The quantised sites; all others are float.
        figures: Figures of the outputs, see `Figures.summary`.
    """

    name: str
    sites: tuple[str, ...]
    figures: Mapping[str, float]

    @property
    def losses(self) -> dict[str, float]:
        """The loss by measure; larger is worse."""
        f = self.figures
        found = {"cosine": 1 - min(value for name, value in f.items() if name.endswith("_cosine_mean"))}
        if "margin_error" in f:
            found["margin"] = f["margin_error"]
        if "accuracy" in f:
            found["task"] = f["reference_accuracy"] - f["accuracy"]
        return found


@dataclass(frozen=True)
class Sensitivity:
    """The result of a sensitivity analysis.

    Attributes:
        images: Number of images that everything was measured on.
        costs: Costs of each site, each kind, each block, and all sites; within each group, the worst comes first.
        float_sites: The fewest sites found that have to stay float for the gate to hold.
        kept: Figures with these sites in float.
        missed: The requirements of the gate that are missed nevertheless.
    """

    images: int
    costs: tuple[Cost, ...]
    float_sites: tuple[str, ...]
    kept: Mapping[str, float]
    missed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}

    def named(self, prefix: str) -> list[Cost]:
        """Costs whose name begins with a prefix."""
        return [cost for cost in self.costs if cost.name.startswith(prefix)]


def analyse(
    portable: Path,
    spec: QuantSpec,
    prefix: int,
    tolerance: Tolerance,
    runner: Runner,
    names: Sequence[str] = (),
    report: Report = lambda step: None,
) -> Sensitivity:
    """Measure every site, and choose the sites that stay float.

    Args:
        portable: The portable graph; the graphs to run are written beside it and removed again.
        spec: The calibration of the graph. Everything is measured on its tuning images, so that its held-out images
            can still judge the outcome.
        prefix: Prefix tokens of the model.
        tolerance: Tolerance of int8 engines.
        runner: Runs graphs on this machine.
        names: Names of the model's classes, if it has any.
        report: Called with a line for each measurement.
    """
    sites = sorted(possible_sites(read(portable)), key=_place)
    trial = _Trial(portable, spec, prefix, runner, numbered(spec.tuning_labels, names), sites)
    parts: dict[str, tuple[str, ...]] = {site: (site,) for site in sites}
    inside = [site for site in sites if block_of(site)]
    kinds, blocks = dict.fromkeys(map(kind_of, inside)), dict.fromkeys(map(block_of, inside))
    parts |= {f"all {kind}": tuple(site for site in inside if kind_of(site) == kind) for kind in kinds}
    parts |= {f"block {block}": tuple(site for site in inside if block_of(site) == block) for block in blocks}
    parts[EVERYTHING] = tuple(sites)
    costs = []
    for number, (name, some) in enumerate(parts.items(), 1):
        report(f"{number} of {len(parts)}: {name} in int8")
        costs.append(Cost(name, some, trial.figures(some)))
    ordered = [cost for group in _alike(costs) for cost in ranked(group)]
    report("looking for the fewest sites that have to stay float")
    worst_first = [cost.name for cost in ordered if cost.name in sites]
    stays = fewest(worst_first, lambda floats: not trial.missed(set(sites) - floats, tolerance))
    quantized = set(sites) - stays
    return Sensitivity(
        images=len(spec.tuning_samples),
        costs=tuple(ordered),
        float_sites=tuple(site for site in sites if site in stays),
        kept=trial.figures(quantized),
        missed=tuple(trial.missed(quantized, tolerance)),
    )


def fewest(worst_first: Sequence[str], holds: Callable[[set[str]], bool]) -> set[str]:
    """Find few items for which a condition holds: the shortest prefix of the order, less the items it can spare.

    Args:
        worst_first: Items, in the order in which they are likely to be needed.
        holds: The condition, which is assumed to stay true when items are added.
    """
    least, most = 0, len(worst_first)
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if holds(set(worst_first[:middle])) else (middle + 1, most)
    needed = set(worst_first[:least])
    for name in reversed(worst_first[: max(least - 1, 0)]):
        if holds(needed - {name}):
            needed.discard(name)
    return needed


def ranked(costs: Sequence[Cost]) -> list[Cost]:
    """Sort costs by the sum of their ranks in each measure, the worst first."""
    places = dict.fromkeys(range(len(costs)), 0)
    for measure in costs[0].losses if costs else ():
        values = [cost.losses[measure] for cost in costs]
        for index, value in enumerate(values):
            places[index] += sum(other > value for other in values)
    return [costs[index] for index in sorted(places, key=lambda index: places[index])]


def kind_of(site: str) -> str:
    """The kind of a site, such as ``mlp.fc1`` for ``blocks.3.mlp.fc1.input``."""
    found = BLOCK.match(site)
    return (found[2] if found else site).removesuffix(".input")


def block_of(site: str) -> str:
    """The block of a site, such as ``3`` for ``blocks.3.mlp.fc1.input``; empty for a site outside blocks."""
    found = BLOCK.match(site)
    return found[1] if found else ""


def _place(site: str) -> tuple[int, str]:
    found = BLOCK.match(site)
    return (int(found[1]) if found else -1, site)


def _alike(costs: Sequence[Cost]) -> list[list[Cost]]:
    """Group costs into those of sites, kinds, blocks and everything."""
    found: dict[str, list[Cost]] = {}
    for cost in costs:
        word, space, _ = cost.name.partition(" ")
        found.setdefault(word if space or word == EVERYTHING else "", []).append(cost)
    return list(found.values())


class _Trial:
    """Runs the same images through graphs with different sites quantised."""

    def __init__(
        self,
        portable: Path,
        spec: QuantSpec,
        prefix: int,
        runner: Runner,
        labels: Sequence[int],
        sites: Collection[str],
    ) -> None:
        self.runner = runner
        self.portable = portable
        self.quantization = prepare(portable, spec, "u8", prefix, sites)
        self.layers = {group.site: tuple(group.layers) for group in groups(read(portable))}
        longest = max(len(image) + prefix for image in spec.tuning_samples)
        self.packs = image_packs(
            runner(portable, None),
            spec.tuning_samples,
            labels,
            prefix=prefix,
            budget=max(PACK_TOKENS, longest),
            max_images=len(spec.tuning_samples),
        )
        self.known: dict[frozenset[str], dict[str, float]] = {}

    def figures(self, sites: Collection[str]) -> dict[str, float]:
        key = frozenset(sites)
        if key not in self.known:
            self.known[key] = self._measure(key)
        return self.known[key]

    def missed(self, sites: Collection[str], tolerance: Tolerance) -> list[str]:
        return list(shortfalls(self.figures(sites), tolerance))

    def _measure(self, sites: Collection[str]) -> dict[str, float]:
        names = {name for site in sites for name in self.layers[site]}
        layers = {name: layer for name, layer in self.quantization.layers.items() if name in names}
        run = self.runner(self.portable, replace(self.quantization, layers=layers))
        figures = Figures()
        for item in self.packs:
            figures.add(run(item.pack), item.reference, item.labels)
        return figures.summary()
