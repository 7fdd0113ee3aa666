"""Tunes a profile on the machine at hand: fits a cost model, chooses a packing, and measures the gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.compare import LEAST_SITTINGS
from naflex_deploy.bench.compare.contenders import (
    ONE_BY_ONE,
    TOGETHER,
    Build,
    Comparison,
    compare_engines,
    engine_of,
)
from naflex_deploy.bench.cost.cost import FITTING, Clock, CostFit, Report, fit_cost, seconds_option
from naflex_deploy.bench.cost.predict import Packing, Predictor, choose_packing, improved, tuned_profile
from naflex_deploy.bench.load.accounting import attention_form
from naflex_deploy.bench.load.mixes import Size, choose_mix, read_sizes
from naflex_deploy.bench.load.subject import Subject, open_subject, sound
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.decode import read_header
from naflex_deploy.runtime.images.inputs import expand
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.images.tiles import plan_layout

Int64 = npt.NDArray[np.int64]

SAMPLE = 512
"""Number of images on which a packing is predicted."""

MEASURED = 32
"""Largest number of images on which a packing is measured."""

FEWEST = 2
"""Smallest number of images on which a packing is measured; where there is no time for them, it is not."""

LOADS = 2 * LEAST_SITTINGS + 2
"""Number of engines that are loaded for a measurement: two for each sitting, and two for their results."""

FULL_IMAGES, IMAGES = 4, 64
"""Packs of as many images are timed at least, of full length and of any, where the engine takes packs of any form."""

WIDTH = 0.02
"""Relative width of an interval of the gain at which the measurement ends."""

WANTED = ((ONE_BY_ONE, TOGETHER), (TOGETHER,))
"""What is measured: both workloads or, where there is no time for them, the throughput alone."""

WORKLOADS = {ONE_BY_ONE: (1,), TOGETHER: (0,)}
"""The groups of the prediction that correspond to each measured workload."""


@dataclass(frozen=True)
class Tuning:
    """The result of tuning a profile.

    Attributes:
        profile: The tuned profile.
        before, after: Packing of the original and of the tuned profile.
        cost: The cost model.
        predicted: Predicted speedup, by workload.
        measured: Measured comparison of both profiles, with the throughput alone where there was little time; ``None``
            if nothing changed or there was none.
        lengths: Tokens of each image, [N].
        rejected: Number of sizes that the profile refuses, plus that of images whose size cannot be read.
        enough: Seconds of ``--seconds`` that would leave time to measure the gain; 0 if there was time.
        spent: Seconds that tuning took, without the build of engines with fixed shapes.
    """

    profile: Profile
    before: Packing
    after: Packing
    cost: CostFit
    predicted: dict[str, float]
    measured: Comparison | None
    lengths: tuple[int, ...]
    rejected: int
    enough: int
    spent: float


def tune(
    profile: Profile,
    sizes: Path,
    bundle: Path,
    rebuild: Callable[[Profile], Path],
    *,
    seconds: float = 20.0,
    built: float = 0.0,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    report: Report = lambda step: None,
) -> Tuning:
    """Tune a profile for a distribution of sizes.

    Args:
        profile: The profile to tune.
        sizes: A file of ``w,h`` lines, or a directory of images.
        bundle: A bundle of the model, built under the profile or, for ONNX Runtime, under any.
        rebuild: Builds a bundle under another profile, for engines with fixed shapes.
        seconds: Time to spend, of which `FITTING` goes into timing packs and the rest into measuring the gain. Engines
            with fixed shapes are built in addition.
        built: Seconds that the build of the bundle took, which a hint about the time counts in.
        seed: Seed for the choice of images.
        clock: Clock that measures seconds.
        report: Called with a line at the start of each step.

    Raises:
        UsageError: The sizes cannot be read, the profile refuses all of them, or the time does not suffice.
    """
    begun = clock()
    subject = open_subject(bundle)
    loading = clock() - begun
    listed, damaged = _sizes(sizes)
    lengths, rejected = image_tokens(profile, subject, listed)
    fitting = FITTING * seconds
    report(f"timing packs for {fitting:.0f} s, then measuring the gain for up to {seconds - fitting:.0f} s")
    longest = profile.image_tokens(subject.variant.backend, subject.manifest.model.prefix)
    most, images = subject.variant.budgets[-1], profile.max_images(subject.variant.backend)
    if not subject.variant.profiles:
        # The profile's packs may be too small to show what others cost.
        most = max(2 * profile.budgets(subject.variant.backend)[-1], FULL_IMAGES * longest)
        images = max(images, IMAGES)
    fit = fit_cost(
        subject, most, longest, images, seconds=fitting, begun=begun, built=built, clock=clock, report=report
    )
    predictor = Predictor(fit.model, _sample(lengths, seed), attention_form(subject.variant))
    before = current_packing(profile, subject.variant)
    least = _least(profile, subject, lengths)
    after = improved(predictor, before, choose_packing(predictor, before, least=least, most=max(least, most)))
    predicted = {
        name: predictor.seconds(before, groups) / predictor.seconds(after, groups) for name, groups in WORKLOADS.items()
    }
    tuned = tuned_profile(profile, subject.variant.backend, after)
    measured, enough = None, 0
    if after != before:
        started = clock()
        path = rebuild(tuned) if subject.variant.profiles else bundle
        begun += clock() - started
        mix = choose_mix(None, sizes, MEASURED, seed=seed, max_pixels=profile.image.max_pixels)
        sources, _, _ = sound(subject, mix)
        each = _seconds_of(subject, sources[:FEWEST], clock)
        left = seconds - (clock() - begun) - LOADS * loading
        for workloads in WANTED:
            if count := images_in(left, each, len(sources), len(workloads)):
                report(f"measuring the gain on {count} images for up to {left:.0f} s")
                measured = compare_engines(
                    (tuned.name, engine_of(path, subject.variant.name, under(tuned))),
                    (profile.name, engine_of(bundle, subject.variant.name, under(profile))),
                    sources[:count],
                    width=WIDTH,
                    seconds=left * 2 / 3,  # Rounds that are not counted add up to a half.
                    workloads=workloads,
                    report=report,
                )
                break
        else:
            late = max(clock() - begun - fitting, 0.0)  # what was spent besides on loading and on the first images
            least_time = min(FEWEST, len(sources)) * passes(1) * each + LOADS * loading + late
            enough = seconds_option(least_time / (1 - FITTING), built)
    counted, spent = tuple(lengths.tolist()), clock() - begun
    return Tuning(tuned, before, after, fit, predicted, measured, counted, damaged + rejected, enough, spent)


def passes(workloads: int) -> int:
    """Largest number of times that each image is run for the shortest measurement of so many workloads.

    That is in every sitting by two engines, in three rounds and in a request that is not counted before every turn; and
    once by each engine before.
    """
    return 7 * workloads * LEAST_SITTINGS + 2


def images_in(seconds: float, each: float, most: int, workloads: int) -> int:
    """Number of images, of which each takes so long, whose measurement takes no longer than the time; 0 if none does.

    Args:
        seconds: Time for the measurement, without the loading of engines.
        each: Seconds of an image.
        most: Number of images that there are.
        workloads: Number of workloads that are measured.
    """
    count = min(int(seconds / (passes(workloads) * each)), most)
    return count if count >= min(FEWEST, most) else 0


def _seconds_of(subject: Subject, sources: Sequence[Source], clock: Clock) -> float:
    """Seconds that an image takes by itself, from file to result."""
    begun = clock()
    for source in sources:
        for _ in subject.engine.stream([source], subject.outputs):
            pass
    return max((clock() - begun) / len(sources), 1e-9)


def under(profile: Profile) -> Build:
    """Build an engine under another profile, as far as that is possible without rebuilding the bundle."""

    def build(session: Session, manifest: Manifest, variant: Variant) -> Engine:
        budgets = variant.budgets if variant.profiles else list(profile.budgets(variant.backend))
        changed = manifest.model_copy(update={"config": profile})
        return Engine(session, changed, variant.model_copy(update={"budgets": budgets}))

    return build


def image_tokens(profile: Profile, subject: Subject, sizes: Sequence[Size]) -> tuple[Int64, int]:
    """The [N] tokens of images under a profile, counting tiles as images, and the number of sizes that it refuses.

    Raises:
        UsageError: The profile refuses all sizes.
    """
    model, prefix = subject.manifest.preprocessing, subject.manifest.model.prefix
    most = profile.image_tokens(subject.variant.backend, prefix)
    known: dict[Size, list[int]] = {}
    for width, height in set(sizes):
        if width * height > profile.image.max_pixels:
            continue
        with suppress(ImageError):
            layout = plan_layout((height, width), image=profile.image, model=model, tokens=most)
            grids = [layout.whole.grid_hw, *(tile.grid_hw for tile in layout.tiles)]
            known[width, height] = [rows * columns + prefix for rows, columns in grids]
    usable = [known[size] for size in sizes if size in known]
    found = np.array([length for lengths in usable for length in lengths], np.int64)
    if not len(found):
        raise UsageError(
            f"the profile refuses all {len(sizes)} sizes", hint="raise image.max_pixels, or use smaller images"
        )
    return found, len(sizes) - len(usable)


def current_packing(profile: Profile, variant: Variant) -> Packing:
    """The packing that a profile sets for a variant's backend."""
    buckets = tuple(profile.engine.tensorrt.l_buckets) if attention_form(variant) == "rows" else ()
    return Packing(profile.budgets(variant.backend), profile.max_images(variant.backend), buckets)


def _least(profile: Profile, subject: Subject, lengths: Int64) -> int:
    """Smallest size of the largest budget with which every image keeps its tokens."""
    prefix = subject.manifest.model.prefix
    if profile.image.tokens == "auto":
        return profile.budgets(subject.variant.backend)[-1]
    return max(int(lengths.max()), profile.image_tokens(subject.variant.backend, prefix) + prefix)


def _sizes(path: Path) -> tuple[list[Size], int]:
    """The sizes in a file or of the images in a directory, and the number of damaged images.

    Raises:
        UsageError: The file cannot be read, or all images are damaged.
    """
    if not path.is_dir():
        return read_sizes(path), 0
    found: list[Size] = []
    damaged = 0
    for file in expand([path]):
        try:
            width, height, frames = read_header(file.read_bytes())
            found += [(width, height)] * frames
        except ImageError:
            damaged += 1
    if not found:
        raise UsageError(f"{path}: none of {damaged} images can be read", hint="use other images")
    return found, damaged


def _sample(lengths: Int64, seed: int) -> Int64:
    return np.random.default_rng(seed).choice(lengths, min(SAMPLE, len(lengths)), replace=False)
