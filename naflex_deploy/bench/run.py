"""Runs one benchmark, from its options to its document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from naflex_deploy.bench.compare.contenders import (
    Build,
    Comparison,
    Make,
    ablations,
    compare_engines,
    engine_of,
    with_baseline,
)
from naflex_deploy.bench.cost.stages import time_stages
from naflex_deploy.bench.load import measure
from naflex_deploy.bench.load.http import Server, embedding_request, served_model
from naflex_deploy.bench.load.in_process import measure_in_process
from naflex_deploy.bench.load.mixes import choose_mix, mix_for
from naflex_deploy.bench.load.stopping import Stopping
from naflex_deploy.bench.load.subject import Subject, open_subject, sound
from naflex_deploy.bench.report import report
from naflex_deploy.bench.report.provenance import provenance
from naflex_deploy.bench.report.summary import summary_json
from naflex_deploy.bench.steps import Show, Steps
from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.bundle.footprint import run_peak
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result

Json = dict[str, Any]

COMPARISON = 6
"""A comparison may take this many times as long as another figure."""


@dataclass(frozen=True)
class Options:
    """The options of a benchmark.

    Attributes:
        bundle: Path of the bundle to measure.
        second: Path of another bundle to compare it with.
        mix: Name of a distribution of sizes; defaults to that of `mix_for` if ``sizes`` is not given either.
        sizes: A CSV of w,h lines, or a directory of images.
        count: Number of images in the mix.
        modes: Modes among `measure.MODES`; empty for all modes, or for none in a comparison.
        rates: Rates of the open loop in images per second; empty for `measure.SWEEP`.
        slo: Longest latency of a good answer in seconds; defaults to `measure.SLO` times the median.
        url: URL of a server of the bundle, which is measured instead of the bundle itself.
        model: Name of the server's model; defaults to the name of the bundle's directory.
        api_key: API key of the server.
        baseline: One of `baselines.BASELINES` to compare with.
        ablate: Whether to compare the engine with ablations of it.
        variant: Name of the variant of the bundles; defaults to the first that fits this machine.
        seconds: Longest time to spend on one figure.
        width: Relative width of the interval of a median at which to stop.
        seed: Seed of sizes, order and arrival times.
    """

    bundle: Path
    second: Path | None = None
    mix: str | None = None
    sizes: Path | None = None
    count: int = 32
    modes: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    slo: float | None = None
    url: str | None = None
    model: str | None = None
    api_key: str = ""
    baseline: str | None = None
    ablate: bool = False
    variant: str | None = None
    seconds: float = 10.0
    width: float = 0.05
    seed: int = 0

    @property
    def comparing(self) -> bool:
        return bool(self.second or self.baseline or self.ablate)

    def check(self) -> None:
        """Refuse options that exclude each other.

        Raises:
            UsageError: Two options exclude each other; names both.
        """
        for first, second, clash in (
            ("--mix", "--sizes", self.mix and self.sizes),
            ("a second bundle", "--baseline", self.second and self.baseline),
            ("--url", "a comparison", self.url and self.comparing),
        ):
            if clash:
                raise UsageError(f"{first} and {second} cannot be used together", hint="leave one of them out")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a benchmark.

    Attributes:
        document: The whole document, see the package `report`.
        comparisons: Comparisons, of which that with the second bundle or the baseline comes first.
        rejected: Results of images that cannot be measured, with the reason.
    """

    document: Json
    comparisons: tuple[Comparison, ...]
    rejected: tuple[Result, ...]


def run(options: Options, show: Show = lambda what, counts: None) -> Outcome:
    """Run a benchmark.

    Args:
        options: What to measure.
        show: See `Steps`.

    Raises:
        NaflexError: Options exclude each other, a bundle cannot be loaded, no image can be measured, or no server
            answers.
    """
    options.check()
    steps = Steps(show)
    steps.part(f"loading {options.bundle}")
    subject = open_subject(options.bundle, options.variant)
    origin = provenance(subject.manifest, subject.variant, _arguments(options))
    steps.total = _number_of_steps(options, len(subject.variant.budgets))
    steps.begin("preparing images")
    limit = subject.manifest.config.image.max_pixels
    name = options.mix or (None if options.sizes else mix_for(subject.manifest.config.name))
    mix = choose_mix(name, options.sizes, options.count, seed=options.seed, max_pixels=limit)
    stopping = Stopping(options.width, min(1.0, options.seconds / 4), options.seconds)
    sources, prepared, rejected = sound(subject, mix)
    work = _Work(options, subject, stopping, sources, prepared, steps)
    figures: Json = {}
    if options.url:
        figures = work.ask_server(options.url, options.modes or measure.MODES)
    elif options.modes or not options.comparing:
        figures = work.measure(options.modes or measure.MODES)
    comparisons = work.compare() if options.comparing else []
    tokens = [measure.tokens_of(image, subject) for image in prepared]
    document: Json = {
        "bundle": str(options.bundle),
        "provenance": report.provenance_json(origin),
        "mix": {"name": mix.name, "about": mix.about, "histogram": report.histogram_json(tokens)},
        "rejected": [{"image": result.name, "error": str(result.error)} for result in rejected],
        "comparisons": [report.comparison_json(comparison) for comparison in comparisons],
        **report.NOTHING,
        **figures,
    }
    document["summary"] = summary_json(document)
    return Outcome(document, tuple(comparisons), tuple(rejected))


@dataclass(frozen=True, eq=False)
class _Work:
    options: Options
    subject: Subject
    stopping: Stopping
    sources: Sequence[bytes]
    prepared: list[Prepared]
    steps: Steps

    def measure(self, modes: Sequence[str]) -> Json:
        """Measure the bundle in this process."""
        subject, sources, prepared, stopping = self.subject, self.sources, self.prepared, self.stopping
        found: Json = {}
        slo, rates = self.options.slo, self.options.rates
        if "single" in modes or ("open-loop" in modes and slo is None):
            self.steps.begin("single stream")
            single = measure.measure_single(subject, sources, prepared, stopping, self.options.seed)
            found["single"] = report.single_json(single)
            slo = slo or measure.SLO * single.typical
        if "offline" in modes or ("open-loop" in modes and not rates):
            self.steps.begin("offline")
            throughput, allocation = measure.measure_offline(subject, sources, prepared, stopping)
            found["offline"] = report.offline_json(throughput)
            self.steps.measured(throughput.images_estimate, throughput.tokens)
            found["accounting"] = report.allocation_json(allocation)
            rates = rates or measure.sweep(throughput.images_estimate)
            self.steps.begin("packs of each budget")
            budgets = measure.measure_budgets(subject, prepared, stopping)
            found["budgets"] = [report.budget_json(figures) for figures in budgets]
        if "open-loop" in modes and slo:
            steps = measure_in_process(subject, sources, rates, slo, stopping, self.options.seed, self.steps.begin)
            found |= {"open_loop": [report.step_json(one) for one in steps], "slo_ms": 1e3 * slo}
        self.steps.begin("stages")
        found["stages"] = report.stages_json(time_stages(subject, sources, seconds=stopping.cap / 2))
        self.steps.begin("peak memory")
        found["peak_memory_bytes"] = run_peak(subject.path, subject.variant, subject.manifest.model.prefix)
        return found

    def ask_server(self, url: str, modes: Sequence[str]) -> Json:
        """Measure a server over HTTP."""
        options, stopping = self.options, self.stopping
        model = served_model(url, options.model or options.bundle.resolve().name, options.api_key)
        requests = self._requests(url, model)
        found: Json = {"server": {"url": url, "model": model}}
        slo, rates = options.slo, options.rates
        with Server(url, requests) as server:
            if "single" in modes or ("open-loop" in modes and slo is None):
                self.steps.begin("single stream")
                single = measure.measure_server_single(server.send, stopping)
                found["single"] = report.single_json(single)
                slo = slo or measure.SLO * single.typical
            if "offline" in modes or ("open-loop" in modes and not rates):
                self.steps.begin("offline")
                tokens = sum(measure.tokens_of(image, self.subject) for image in self.prepared)
                throughput = measure.measure_server_offline(server.send, len(requests), tokens, stopping)
                found["offline"] = report.offline_json(throughput)
                self.steps.measured(throughput.images_estimate, throughput.tokens)
                rates = rates or measure.sweep(throughput.images_estimate)
            if "open-loop" in modes and slo:
                steps = measure.measure_open_loop(server.send, rates, slo, stopping, options.seed, self.steps.begin)
                with Server(url, self._requests(url, model, slo)) as told:
                    known = measure.measure_open_loop(told.send, rates, slo, stopping, options.seed, self.steps.begin)
                steps += [replace(step, goal_known=True) for step in known]
                found |= {"open_loop": [report.step_json(one) for one in steps], "slo_ms": 1e3 * slo}
        return found

    def _requests(self, url: str, model: str, seconds: float = 0.0) -> list[bytes]:
        key = self.options.api_key
        return [embedding_request(s, url=url, model=model, api_key=key, seconds=seconds) for s in self.sources]

    def compare(self) -> list[Comparison]:
        """Run all comparisons that were asked for."""
        options, bundle = self.options, self.options.bundle
        pairs: list[tuple[tuple[str, Make], tuple[str, Make], bool]] = []
        if options.second:
            names = str(bundle), str(options.second)
            pairs.append(((names[0], self._make()), (names[1], engine_of(options.second, options.variant)), False))
        if options.baseline:
            longest = max(measure.tokens_of(image, self.subject) for image in self.prepared)
            build = with_baseline(options.baseline, longest)
            same = options.baseline != "square"
            pairs.append((("packed", self._make()), (options.baseline, self._make(build)), same))
        if options.ablate:
            for (first, second), (one, other) in ablations(len(self.subject.variant.budgets)).items():
                pairs.append(((first, self._make(one)), (second, self._make(other)), False))
        timed = partial(
            compare_engines, width=options.width, seconds=COMPARISON * options.seconds, report=self.steps.part
        )
        found = []
        for usual, alternative, same in pairs:
            self.steps.begin(f"{usual[0]} against {alternative[0]}")
            found.append(timed(usual, alternative, self.sources, same=same))
        return found

    def _make(self, build: Build | None = None) -> Make:
        bundle, variant = self.options.bundle, self.options.variant
        return engine_of(bundle, variant, build) if build else engine_of(bundle, variant)


def _number_of_steps(options: Options, budgets: int) -> int:
    """How many steps `run` begins; a comparison is one of them."""
    modes = options.modes or (() if options.comparing else measure.MODES)
    loads = "open-loop" in modes
    single = "single" in modes or (loads and options.slo is None)
    offline = "offline" in modes or (loads and not options.rates)
    loops = 2 * len(options.rates or measure.SWEEP) if loads else 0
    local = 0 if options.url or not modes else offline + 2
    compared = bool(options.second) + bool(options.baseline) + len(ablations(budgets) if options.ablate else ())
    return 1 + single + offline + loops + local + compared


def _arguments(options: Options) -> Json:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name != "api_key"
    }
