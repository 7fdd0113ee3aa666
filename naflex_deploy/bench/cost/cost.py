"""Models the cost of a pack on this machine by its call, images, tokens and attention scores."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.load.accounting import computed
from naflex_deploy.bench.load.subject import Subject
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import InputSpec, Variant
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.backends.session import Session, SideBySide

Float = npt.NDArray[np.float64]
Clock = Callable[[], float]
Report = Callable[[str], None]

PROBES = 6
"""Number of budgets at which packs are timed."""

FITTING = 0.4
"""Share of the time of a tuning that goes into timing packs; the rest goes into measuring the gain."""

LEAST_ROUNDS = 3
"""Fewest rounds through all packs whose medians are used, after an uncounted one."""

STEP = 64
"""Chosen budgets are multiples of this number of tokens."""


@dataclass(frozen=True)
class CostModel:
    """Seconds of a pack: ``call + image·M + token·T + score·Σ Lᵢ²``, counting what the engine computes.

    Attributes:
        call: Seconds per pack, not negative.
        image: Seconds per image, not negative.
        token: Seconds per token, not negative.
        score: Seconds per attention score, not negative.
    """

    call: float
    image: float
    token: float
    score: float

    @classmethod
    def fit(cls, features: Float, seconds: Float) -> CostModel:
        """Fit the terms with the least squared relative error, none of which may be negative.

        Each subset of the terms is fitted by least squares, and the best fit without a negative term is taken. This is
        the optimum, because the non-zero terms of the optimum are the least-squares fit of their own subset.

        Args:
            features: 1, images, tokens and scores of each pack, [N, 4].
            seconds: Time of each pack, [N].
        """
        relative = features / seconds[:, None]
        best, least = np.zeros(4), np.inf
        for kept in itertools.chain.from_iterable(itertools.combinations(range(4), n) for n in range(1, 5)):
            part = relative[:, kept]
            scale = np.linalg.norm(part, axis=0)
            terms = np.linalg.lstsq(part / scale, np.ones(len(part)), rcond=None)[0] / scale
            error = float(np.square(part @ terms - 1).sum())
            if (terms >= 0).all() and error < least:
                best, least = np.zeros(4), error
                best[list(kept)] = terms
        return cls(*best.tolist())

    def seconds(self, features: Float) -> Float:
        """Predict the [N] seconds of packs from their [N, 4] features."""
        predicted: Float = features @ np.array(astuple(self))
        return predicted


def features(packs: Sequence[Pack], variant: Variant) -> Float:
    """The features of packs, [N, 4]: 1, and the images, tokens and scores that an engine computes."""
    return np.array([[1.0, pack.images, *computed(pack, variant)] for pack in packs])


def probe_packs(
    budget: int, longest: int, max_images: int, patches: InputSpec, prefix: int, seed: int = 0
) -> list[Pack]:
    """Three packs of noise to time, from which the terms can be told apart.

    Their longest images have the full length, a quarter and a sixteenth of it, but are always long enough to fill the
    pack with the images that it may hold. The packs thus have nearly the same number of tokens, but ever more images
    and ever fewer scores. Lengths vary inside a pack, because engines may have a shortcut for equal ones.

    Args:
        budget: Tokens of the packs, more than ``prefix``.
        longest: Largest number of tokens in an image, including prefix tokens.
        max_images: Largest number of images in a pack.
        patches: The engine's input of patches.
        prefix: Prefix tokens of the model.
        seed: Seed of the noise.
    """
    random = np.random.default_rng(seed)
    found = []
    for part in (1, 4, 16):
        most = max(1, min(longest, budget, max(longest // part, -(-4 * budget // (3 * max_images)))) - prefix)
        images: list[Patches] = []
        room = budget
        while len(images) < max_images and room > prefix:
            size = min(int(random.integers(-(-most // 2), most + 1)), room - prefix)
            pixels = random.integers(0, 256, (size, int(patches.shape[1])), dtype=np.uint8)
            images.append(Patches(pixels.astype(patches.dtype), _grid(size)))
            room -= size + prefix
        found.append(Pack.of(images, prefix=prefix))
    return found


def _grid(tokens: int) -> tuple[int, int]:
    rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows


def time_packs(
    session: Session,
    packs: Sequence[Pack],
    outputs: Sequence[str],
    *,
    seconds: float = 20.0,
    least: int = LEAST_ROUNDS,
    clock: Clock = time.perf_counter,
    report: Report = lambda step: None,
) -> Float:
    """The [N] seconds that each pack takes, as the median over rounds through all packs.

    If a session has several workers, each of them runs the pack at the same time, as under load, and the time is that
    of all together: packs per second are workers over seconds.

    Args:
        session: Session that runs the packs.
        packs: Packs to time.
        outputs: Names of the outputs to compute.
        seconds: Time to spend, including an uncounted round; no round begins that would probably end later.
        least: Fewest rounds to count, whatever the time.
        clock: Clock that measures seconds.
        report: Called with a line at the start of each round, which says how far the work is.
    """
    workers = session.workers if isinstance(session, SideBySide) else 1
    runner = session.worker() if isinstance(session, SideBySide) and workers > 1 else session
    rounds: list[list[float]] = []
    with ThreadPoolExecutor(workers, "pack") as pool:

        def run(pack: Pack) -> float:
            start = clock()
            for future in [pool.submit(runner.run, pack, outputs) for _ in range(workers)]:
                future.result()
            return clock() - start

        begun, longest = clock(), 0.0
        while len(rounds) <= least or clock() - begun + longest <= seconds:
            started = clock()
            report(f"timing packs: round {len(rounds) + 1}, {started - begun:.0f} of {seconds:.0f} s")
            rounds.append([run(pack) for pack in packs])
            longest = max(longest, clock() - started)
    medians: Float = np.median(np.array(rounds[1:]), axis=0)
    return medians


@dataclass(frozen=True, eq=False)
class CostFit:
    """A cost model, and its predictions for packs on which it was not fitted.

    Attributes:
        model: The model, fitted on all packs.
        tokens: Tokens of the packs held out to test the model, those of every other budget, [N].
        seconds: Measured seconds of these packs, [N].
        predicted: Seconds that a model fitted on the other packs predicts for them, [N].
    """

    model: CostModel
    tokens: Float
    seconds: Float
    predicted: Float

    @property
    def error(self) -> float:
        """The largest relative error of a prediction."""
        return float(np.abs(self.predicted / self.seconds - 1).max())


def fit_cost(
    subject: Subject,
    most: int,
    longest: int,
    max_images: int,
    *,
    seconds: float = 20.0,
    begun: float | None = None,
    built: float = 0.0,
    clock: Clock = time.perf_counter,
    report: Report = lambda step: None,
) -> CostFit:
    """Time packs of `PROBES` budgets on an engine, and fit a cost model.

    Args:
        subject: The engine.
        most: Tokens of the largest packs. The smallest have about a thirty-second of that, though at least `STEP` if
            that is no more than a quarter. Where there is no time for that, the largest are halved, as long as they
            hold the longest image.
        longest: Largest number of patches in an image.
        max_images: Largest number of images in a pack.
        seconds: Time to spend.
        begun: When that time began, on the clock; now if ``None``.
        built: Seconds that the build of the engine took; see `seconds_option`.
        clock: Clock that measures seconds.
        report: Called with a line at the start of each round.

    Raises:
        UsageError: The least that has to be timed would take longer than `seconds`.
    """
    begun = clock() if begun is None else begun
    groups = _groups(subject, most, longest, max_images)
    # Packs of many images, which cost more than others, at two budgets: enough for an estimate from above.
    small, usual = (groups[index][-1] for index in (0, PROBES // 2))
    timed = time_packs(subject.session, [small, usual], subject.outputs, seconds=0, least=1, clock=clock)
    per_token = max(float(timed[1] - timed[0]) / (usual.tokens - small.tokens), 0.0)
    per_pack = max(float(timed[0]) - per_token * small.tokens, 0.0)
    left = seconds - (clock() - begun)
    while (needed := _estimated(groups, per_pack, per_token)) > left:
        if most // 2 < longest + subject.manifest.model.prefix:
            raise UsageError(
                f"timing packs takes about {needed:.1f} s on this machine, expected at most {max(left, 0):.1f} s",
                hint=f"pass --seconds {seconds_option((needed + clock() - begun) / FITTING, built)}",
            )
        most //= 2
        groups = _groups(subject, most, longest, max_images)
    packs = [pack for group in groups for pack in group]
    # Every other budget is held out and predicted from its neighbours.
    held = np.array([index % 2 == 1 and index < PROBES - 1 for index, group in enumerate(groups) for _ in group])
    table = features(packs, subject.variant)
    times = time_packs(subject.session, packs, subject.outputs, seconds=left, clock=clock, report=report)
    tried = CostModel.fit(table[~held], times[~held])
    return CostFit(CostModel.fit(table, times), table[held, 2], times[held], tried.seconds(table[held]))


def seconds_option(seconds: float, built: float) -> int:
    """The ``--seconds`` of ``plan --tune`` that leave so many for tuning.

    Args:
        seconds: Seconds that tuning needs.
        built: Seconds that the build of a bundle took before. It leaves at least half of the option's seconds.
    """
    return math.ceil(min(seconds + built, 2 * seconds))


def _estimated(groups: Sequence[Sequence[Pack]], per_pack: float, per_token: float) -> float:
    """Seconds of the fewest rounds through packs, one of which is not counted."""
    return (LEAST_ROUNDS + 1) * sum(per_pack + per_token * pack.tokens for group in groups for pack in group)


def _groups(subject: Subject, most: int, longest: int, max_images: int) -> list[list[Pack]]:
    """The packs to time, those of each budget together; see `fit_cost`."""
    prefix = subject.manifest.model.prefix
    (spec,) = [spec for spec in subject.variant.inputs if spec.role == Role.PATCHES]
    least = max(min(max(most // 32, STEP), most // 4), prefix + 4)
    budgets = [int(budget) for budget in np.geomspace(least, most, PROBES)]
    return [probe_packs(budget, longest + prefix, max_images, spec, prefix) for budget in budgets]
