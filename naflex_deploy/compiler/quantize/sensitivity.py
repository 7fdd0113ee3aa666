"""What each quantised layer costs, and the fewest that have to stay float for the gate to hold.

Everything is measured on images through ONNX Runtime's int8 graph: with one site quantised and all else in float,
with one kind of site in all blocks, with all sites of one block, and with all of them.
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
"""Lowers the portable graph, quantised where asked, and loads it: a call from a pack to its outputs."""


@dataclass(frozen=True)
class Cost:
    """What quantising some sites alone costs.

    Attributes:
        name: A site, ``all mlp.fc2``, or ``block 3``.
        sites: Quantised; everything else is float.
        figures: See `Figures.summary`.
    """

    name: str
    sites: tuple[str, ...]
    figures: Mapping[str, float]

    @property
    def losses(self) -> dict[str, float]:
        """By measure; larger is worse."""
        f = self.figures
        found = {"cosine": 1 - min(value for name, value in f.items() if name.endswith("_cosine_mean"))}
        if "margin_error" in f:
            found["margin"] = f["margin_error"]
        if "accuracy" in f:
            found["task"] = f["reference_accuracy"] - f["accuracy"]
        return found


@dataclass(frozen=True)
class Sensitivity:
    """What was found.

    Attributes:
        images: That everything was measured on.
        costs: Of each site, kind and block, and of all sites; within each the worst first.
        float_sites: The fewest found that have to stay float for the gate to hold.
        kept: Figures with these in float.
        missed: What misses the gate even so.
    """

    images: int
    costs: tuple[Cost, ...]
    float_sites: tuple[str, ...]
    kept: Mapping[str, float]
    missed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}

    def named(self, prefix: str) -> list[Cost]:
        """Costs whose name begins so."""
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
    """Measure every site, and choose what stays float.

    Args:
        portable: The portable graph; graphs to run are written beside it and taken away again.
        spec: Its calibration; the images that it was tuned on are those that everything is measured on, so that the
            held-out ones still judge the outcome.
        prefix: Prefix tokens of the model.
        tolerance: Of int8.
        runner: Runs graphs on this machine.
        names: The model's classes, where it has names for them.
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
    """The fewest of some things for which a condition holds: a prefix of the order, without those it holds without.

    Args:
        worst_first: In the order in which they are likely to be needed.
        holds: Taken to hold of more things where it holds of fewer.
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
    """The worst first, by the sum of their places in each measure."""
    places = dict.fromkeys(range(len(costs)), 0)
    for measure in costs[0].losses if costs else ():
        values = [cost.losses[measure] for cost in costs]
        for index, value in enumerate(values):
            places[index] += sum(other > value for other in values)
    return [costs[index] for index in sorted(places, key=lambda index: places[index])]


def kind_of(site: str) -> str:
    """``blocks.3.mlp.fc1.input`` → ``mlp.fc1``."""
    found = BLOCK.match(site)
    return (found[2] if found else site).removesuffix(".input")


def block_of(site: str) -> str:
    """``blocks.3.mlp.fc1.input`` → ``3``; empty for what is in no block."""
    found = BLOCK.match(site)
    return found[1] if found else ""


def _place(site: str) -> tuple[int, str]:
    found = BLOCK.match(site)
    return (int(found[1]) if found else -1, site)


def _alike(costs: Sequence[Cost]) -> list[list[Cost]]:
    """Sites, kinds, blocks and everything apart."""
    found: dict[str, list[Cost]] = {}
    for cost in costs:
        word, space, _ = cost.name.partition(" ")
        found.setdefault(word if space or word == EVERYTHING else "", []).append(cost)
    return list(found.values())


class _Trial:
    """Runs the same images through graphs in which some sites are quantised."""

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
