"""What a pack costs on this machine: a call, its images, its tokens, its attention scores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from naflex_deploy.bench.load.accounting import computed
from naflex_deploy.bench.load.subject import Subject
from naflex_deploy.core.manifest import InputSpec, Variant
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.backends.session import Session, SideBySide

Float = npt.NDArray[np.float64]

PROBES = 6
"""Budgets that packs are timed at."""

STEP = 64
"""Budgets that are chosen are multiples of it."""


@dataclass(frozen=True)
class CostModel:
    """Seconds of a pack: ``call + image·M + token·T + score·Σ Lᵢ²``, of what the engine computes.

    Attributes:
        call, image, token, score: Seconds of each, none negative.
    """

    call: float
    image: float
    token: float
    score: float

    @classmethod
    def fit(cls, features: Float, seconds: Float) -> CostModel:
        """The terms with the least squared relative error.

        None may be negative, so the best of the least-squares fits on each subset of the terms is taken that has
        no negative one; it is the optimum, as an optimum's terms that are not 0 are its own least-squares fit.

        Args:
            features: [N, 4]: 1, images, tokens, scores of each pack.
            seconds: [N]
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
        """[N] predicted, of [N, 4] features."""
        predicted: Float = features @ np.array(astuple(self))
        return predicted


def features(packs: Sequence[Pack], variant: Variant) -> Float:
    """[N, 4] of packs: 1, images, tokens and scores that an engine computes."""
    return np.array([[1.0, pack.images, *computed(pack, variant)] for pack in packs])


def probe_packs(
    budget: int, longest: int, max_images: int, patches: InputSpec, prefix: int, seed: int = 0
) -> list[Pack]:
    """Packs of noise to time, that tell the terms apart.

    Three, of images up to as long as they may be, up to a quarter and up to a sixteenth of that, but long enough for
    as many as a pack may hold to fill it: nearly the same tokens, in ever more images with ever fewer scores.
    Lengths differ inside a pack, as they do in life: engines may have a shorter way for equal ones.

    Args:
        budget: Tokens of the packs, more than ``prefix``.
        longest: Most tokens of an image, prefix tokens included.
        patches: The engine's input of patches.
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
    least: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Float:
    """[N] seconds of each pack, medians over rounds through all of them.

    A session of several workers runs a pack on each at once, as it does under load, and the time is that of one of
    them: packs a second are workers over seconds.

    Args:
        seconds: To measure, ``least`` rounds at the least, after one that is not counted.
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

        begun = clock()
        while len(rounds) <= least or clock() - begun < seconds:
            rounds.append([run(pack) for pack in packs])
    medians: Float = np.median(np.array(rounds[1:]), axis=0)
    return medians


@dataclass(frozen=True, eq=False)
class CostFit:
    """A model and how it predicts what it was not fitted on.

    Attributes:
        model: Fitted on all packs.
        tokens: [N] of the packs left out when the model was tried: those of every other budget.
        seconds: [N] that they took.
        predicted: [N] by a model fitted on the others.
    """

    model: CostModel
    tokens: Float
    seconds: Float
    predicted: Float

    @property
    def error(self) -> float:
        """The greatest relative error on them."""
        return float(np.abs(self.predicted / self.seconds - 1).max())


def fit_cost(subject: Subject, most: int, longest: int, max_images: int, *, seconds: float = 20.0) -> CostFit:
    """Time packs of `PROBES` budgets on an engine, and fit what they cost.

    Args:
        most: Tokens of the largest packs; the smallest have a thirty-second of it, or `STEP`, or a fourth.
        longest: Most patches of an image.
        max_images: Of a pack.
        seconds: See `time_packs`.
    """
    prefix = subject.manifest.model.prefix
    (spec,) = [spec for spec in subject.variant.inputs if spec.role == Role.PATCHES]
    least = max(min(max(most // 32, STEP), most // 4), prefix + 4)
    budgets = [int(budget) for budget in np.geomspace(least, most, PROBES)]
    groups = [probe_packs(budget, longest + prefix, max_images, spec, prefix) for budget in budgets]
    packs = [pack for group in groups for pack in group]
    # Every other budget is predicted from those around it.
    held = np.array([index % 2 == 1 and index < PROBES - 1 for index, group in enumerate(groups) for _ in group])
    table = features(packs, subject.variant)
    times = time_packs(subject.session, packs, subject.outputs, seconds=seconds)
    tried = CostModel.fit(table[~held], times[~held])
    return CostFit(CostModel.fit(table, times), table[held, 2], times[held], tried.seconds(table[held]))
