"""Tunes a profile on the machine at hand: fits a cost model, chooses a packing, and measures the gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.compare.contenders import (
    ONE_BY_ONE,
    TOGETHER,
    Build,
    Comparison,
    compare_engines,
    engine_of,
)
from naflex_deploy.bench.cost.cost import CostFit, fit_cost
from naflex_deploy.bench.cost.predict import Packing, Predictor, choose_packing, tuned_profile
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
from naflex_deploy.runtime.images.tiles import plan_layout

Int64 = npt.NDArray[np.int64]

SAMPLE = 512
"""Number of images on which a packing is predicted."""

MEASURED = 32
"""Number of images on which a packing is measured."""

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
        measured: Measured comparison of both profiles; ``None`` if nothing changed.
        lengths: Tokens of each image, [N].
        rejected: Number of sizes that the profile refuses, plus that of damaged images.
    """

    profile: Profile
    before: Packing
    after: Packing
    cost: CostFit
    predicted: dict[str, float]
    measured: Comparison | None
    lengths: tuple[int, ...]
    rejected: int


def tune(
    profile: Profile,
    sizes: Path,
    bundle: Path,
    rebuild: Callable[[Profile], Path],
    *,
    seconds: float = 20.0,
    seed: int = 0,
    report: Callable[[str], None] = lambda step: None,
) -> Tuning:
    """Tune a profile for a distribution of sizes.

    Args:
        profile: The profile to tune.
        sizes: A file of ``w,h`` lines, or a directory of images.
        bundle: A bundle of the model, built under the profile or, for ONNX Runtime, under any.
        rebuild: Builds a bundle under another profile, for engines with fixed shapes.
        seconds: Time to spend on timing packs; measuring the gain takes three times as long.
        seed: Seed for the choice of images.
        report: Called with a line at the start of each step.

    Raises:
        UsageError: The sizes cannot be read, or the profile refuses all of them.
    """
    subject = open_subject(bundle)
    listed, damaged = _sizes(sizes)
    lengths, rejected = image_tokens(profile, subject, listed)
    most = subject.variant.budgets[-1] if subject.variant.profiles else 2 * profile.budgets(subject.variant.backend)[-1]
    report("timing packs")
    longest = profile.image_tokens(subject.variant.backend, subject.manifest.model.prefix)
    fit = fit_cost(subject, most, longest, profile.max_images(subject.variant.backend), seconds=seconds)
    predictor = Predictor(fit.model, _sample(lengths, seed), attention_form(subject.variant))
    before = current_packing(profile, subject.variant)
    least = _least(profile, subject, lengths)
    after = choose_packing(predictor, before, least=least, most=max(least, most))
    predicted = {
        name: predictor.seconds(before, groups) / predictor.seconds(after, groups) for name, groups in WORKLOADS.items()
    }
    tuned = tuned_profile(profile, subject.variant.backend, after)
    measured = None
    if after != before:
        path = rebuild(tuned) if subject.variant.profiles else bundle
        mix = choose_mix(None, sizes, MEASURED, seed=seed, max_pixels=profile.image.max_pixels)
        sources, _, _ = sound(subject, mix)
        measured = compare_engines(
            (tuned.name, engine_of(path, subject.variant.name, under(tuned))),
            (profile.name, engine_of(bundle, subject.variant.name, under(profile))),
            sources,
            width=0.02,
            seconds=3 * seconds,
            report=report,
        )
    return Tuning(tuned, before, after, fit, predicted, measured, tuple(lengths.tolist()), damaged + rejected)


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
