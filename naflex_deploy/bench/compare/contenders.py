"""What can be compared: bundles, baselines on a bundle's own engine, and the engine with a choice undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.baselines import baseline, rounded, with_config
from naflex_deploy.bench.compare.compare import Contender, Loaded, Ratio, compare, least_cosine
from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.source import Source

ONE_BY_ONE = "one image after another"
TOGETHER = "all images together"

SAME = 0.999
"""Least cosine of two engines that have to compute the same: int8 rounds differently in packs of another length."""

Make = Callable[[], Engine]
Build = Callable[[Session, Manifest, Variant], Engine]


def contender(name: str, make: Make, sources: Sequence[Source], output: str) -> Contender:
    """An engine with two workloads: latency of each image alone, and throughput of all of them.

    Args:
        make: Loads the engine.
        sources: Images.
        output: Name of the output wanted.
    """

    def load() -> Loaded:
        engine = make()

        def call(images: Sequence[Source]) -> None:
            for _ in engine.stream(images, (output,)):
                pass

        return Loaded({ONE_BY_ONE: [partial(call, [source]) for source in sources], TOGETHER: [partial(call, sources)]})

    return Contender(name, load)


def engine_of(path: Path, variant: str | None = None, build: Build = Engine) -> Make:
    """Loads a bundle, its digests checked.

    Args:
        path: Of the bundle.
        variant: Name of a variant, or the first that fits this machine.
        build: Makes the engine: one as its user has it, if not given.
    """

    def make() -> Engine:
        bundle = Bundle.open(path)
        chosen = bundle.choose(variant)
        bundle.check(bundle.files_of(chosen))
        return build(open_session(path, chosen), bundle.manifest, chosen)

    return make


def with_baseline(name: str, longest: int) -> Build:
    """One of `baselines.BASELINES`.

    Args:
        longest: Tokens of the longest image that will come, prefix tokens included.
    """
    return lambda session, manifest, variant: baseline(name, session, manifest, variant, longest)


def with_budgets(count: int) -> Build:
    """Packs are rounded up to one of the ``count`` largest budgets, as engines of fixed shape do it.

    Also where the engine at hand takes packs as they are: it then runs the tail, too.
    """
    return lambda session, manifest, variant: Engine(rounded(session, variant.budgets[-count:]), manifest, variant)


def with_fit(fit: str) -> Build:
    """Another fit policy."""
    return lambda session, manifest, variant: Engine(session, with_config(manifest, "image", fit=fit), variant)


def ablations(budgets: int) -> dict[tuple[str, str], tuple[Build, Build]]:
    """Pairs: an engine, and the same with a choice undone.

    Args:
        budgets: How many the variant has.
    """
    pairs = {("shrink-only", "fill"): (with_fit("shrink-only"), with_fit("fill"))}
    if budgets > 1:
        pairs[f"{budgets} budgets", "one budget"] = (with_budgets(budgets), with_budgets(1))
    return pairs


@dataclass(frozen=True)
class Comparison:
    """Two engines compared.

    Attributes:
        first, second: Their names.
        least_cosine: Of their results, over images; ``None`` where they are of different width.
        ratios: One a workload.
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
    report: Callable[[str], None] = lambda step: None,
) -> Comparison:
    """Compare two engines by name, on their first common output.

    Args:
        sources: Images that both can prepare.
        width, seconds, report: See `compare`.
        same: They have to agree: a cosine of `SAME` for every image.

    Raises:
        NaflexError: They have no output in common, or do not agree and have to.
    """
    engines = [make() for _, make in (first, second)]
    names = [[spec.name for spec in engine.variant.outputs] for engine in engines]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        raise UsageError(f"expected an output in common, found {names[0]} and {names[1]}", hint="build both with one")
    output = "pooled" if "pooled" in common else common[0]
    cosine = least_cosine(*(_results(engine, sources, output) for engine in engines))
    if same and (cosine is None or cosine < SAME):
        raise NaflexError(f"{second[0]} computes something else: expected a cosine of {SAME}, found {cosine}")
    del engines
    contenders = [contender(name, make, sources, output) for name, make in (first, second)]
    ratios = compare(*contenders, width=width, seconds=seconds, report=report)
    return Comparison(first[0], second[0], cosine, tuple(ratios))


def _results(engine: Engine, sources: Sequence[Source], output: str) -> npt.NDArray[np.float32]:
    """[N, D]: of each image, averaged over its tokens where the output has one for each."""
    if output.startswith("tokens"):
        return np.stack([grid.mean(axis=(0, 1)) for grid in engine.tokens(sources, output)])
    results = sorted(engine.stream(sources, (output,)), key=lambda result: (result.input, result.frame))
    return np.stack([result.outputs[output] for result in results])
