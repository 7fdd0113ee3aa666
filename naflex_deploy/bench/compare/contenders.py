"""Contenders for comparisons: bundles, baselines on a bundle's own engine, and ablations of the engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.baselines import baseline, rounded, with_config
from naflex_deploy.bench.compare.compare import Contender, Loaded, Ratio, compare, least_cosine
from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.pack import on_grid
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.source import Source

ONE_BY_ONE = "one image after another"
TOGETHER = "all images together"
WORKLOADS = (ONE_BY_ONE, TOGETHER)

SAME = 0.999
"""Smallest cosine of two engines that must agree; int8 results can differ between packs of different lengths."""

Make = Callable[[], Engine]
Build = Callable[[Session, Manifest, Variant], Engine]


def contender(
    name: str, make: Make, sources: Sequence[Source], output: str, workloads: Collection[str] = WORKLOADS
) -> Contender:
    """An engine with the latency of each image alone, and the throughput of all images, as workloads.

    Args:
        name: Name in reports.
        make: Loads the engine.
        sources: The images.
        output: Name of the output to compute.
        workloads: Those of the two that are wanted.
    """

    def load() -> Loaded:
        engine = make()

        def call(images: Sequence[Source]) -> None:
            for _ in engine.stream(images, (output,)):
                pass

        calls = {ONE_BY_ONE: [partial(call, [source]) for source in sources], TOGETHER: [partial(call, sources)]}
        return Loaded({name: found for name, found in calls.items() if name in workloads})

    return Contender(name, load)


def engine_of(path: Path, variant: str | None = None, build: Build = Engine) -> Make:
    """A function that loads a bundle and checks its digests.

    Args:
        path: Path of the bundle.
        variant: Name of a variant; defaults to the first that fits this machine.
        build: Makes the engine from its session; defaults to a normal engine.
    """

    def make() -> Engine:
        bundle = Bundle.open(path)
        chosen = bundle.choose(variant)
        bundle.check(bundle.files_of(chosen))
        return build(open_session(path, chosen), bundle.manifest, chosen)

    return make


def with_baseline(name: str, longest: int) -> Build:
    """Build a baseline.

    Args:
        name: One of `baselines.BASELINES`.
        longest: Number of tokens of the longest image in the mix, including prefix tokens.
    """
    return lambda session, manifest, variant: baseline(name, session, manifest, variant, longest)


def with_budgets(count: int) -> Build:
    """Build an engine that rounds packs up to one of the ``count`` largest budgets, as engines with fixed shapes do.

    This also applies to an engine with dynamic shapes, which then computes the tail, too.
    """
    return lambda session, manifest, variant: Engine(rounded(session, variant.budgets[-count:]), manifest, variant)


def with_fit(fit: str) -> Build:
    """Build an engine with another fit policy."""
    return lambda session, manifest, variant: Engine(session, with_config(manifest, "image", fit=fit), variant)


def ablations(budgets: int) -> dict[tuple[str, str], tuple[Build, Build]]:
    """Pairs of engines, by their names, that differ in one choice: the usual one, and its alternative.

    Args:
        budgets: Number of budgets that the variant has.
    """
    pairs = {("shrink-only", "fill"): (with_fit("shrink-only"), with_fit("fill"))}
    if budgets > 1:
        pairs[f"{budgets} budgets", "one budget"] = (with_budgets(budgets), with_budgets(1))
    return pairs


@dataclass(frozen=True)
class Comparison:
    """The comparison of two engines.

    Attributes:
        first, second: Names of the engines.
        least_cosine: Smallest cosine between their results of any image; ``None`` if their widths differ.
        ratios: One ratio per workload.
    """

    first: str
    second: str
    least_cosine: float | None
    ratios: tuple[Ratio, ...]

    @property
    def throughput(self) -> Ratio:
        return next(ratio for ratio in self.ratios if ratio.workload == TOGETHER)


def compare_engines(
    first: tuple[str, Make],
    second: tuple[str, Make],
    sources: Sequence[Source],
    *,
    width: float,
    seconds: float,
    same: bool = False,
    workloads: Collection[str] = WORKLOADS,
    report: Callable[[str], None] = lambda step: None,
) -> Comparison:
    """Compare two engines on ``pooled``, or on their first common output if they do not both have it.

    Args:
        first, second: Names of the engines, and functions that load them.
        sources: Images that both engines can prepare.
        width, seconds, report: See `compare`.
        same: Whether the engines must agree, with a cosine of at least `SAME` for every image.
        workloads: See `contender`.

    Raises:
        NaflexError: The engines have no output in common, or they disagree although they must agree.
    """
    engines = [make() for _, make in (first, second)]
    names = [[spec.name for spec in engine.variant.outputs] for engine in engines]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        raise UsageError(
            f"expected a common output, found {names[0]} and {names[1]}", hint="build both with the same output"
        )
    output = "pooled" if "pooled" in common else common[0]
    cosine = least_cosine(*(_results(engine, sources, output) for engine in engines))
    if same and (cosine is None or cosine < SAME):
        raise NaflexError(f"{second[0]} gives other results: expected a cosine of at least {SAME}, found {cosine}")
    del engines
    contenders = [contender(name, make, sources, output, workloads) for name, make in (first, second)]
    ratios = compare(*contenders, width=width, seconds=seconds, report=report)
    return Comparison(first[0], second[0], cosine, tuple(ratios))


def _results(engine: Engine, sources: Sequence[Source], output: str) -> npt.NDArray[np.float32]:
    """The result of each image, [N, D]; token outputs are averaged over the image's tokens."""
    if on_grid(output):
        return np.stack([grid.mean(axis=(0, 1)) for grid in engine.tokens(sources, output)])
    results = sorted(engine.stream(sources, (output,)), key=lambda result: (result.input, result.frame))
    return np.stack([result.outputs[output] for result in results])
