"""Times each stage from file to result, one after another on one thread; only the engine may use more threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from naflex_deploy.bench.load.subject import Subject
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.images.source import Source
from naflex_deploy.runtime.packing.packer import pack_lengths
from naflex_deploy.runtime.packing.prepare import Preparer

STAGES = ("decode", "resize", "pack", "run")
"""``resize`` is all of preparing an image after decoding, including patchifying; ``run`` includes the copies into and
out of the engine's memory."""


@dataclass(frozen=True)
class Stages:
    """Seconds per image, as medians over passes.

    Attributes:
        seconds: Seconds of each of `STAGES`.
        images: Number of images in a pass.
        passes: Number of passes.
    """

    seconds: dict[str, float]
    images: int
    passes: int


def time_stages(
    subject: Subject,
    sources: Sequence[Source],
    *,
    least: int = 3,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Stages:
    """Time passes over the images for so many seconds, at least ``least`` passes, after an uncounted one."""
    totals: list[list[float]] = []
    images = 0
    begun = clock()
    while len(totals) <= least or clock() - begun < seconds:
        found, images = _one_pass(subject, sources, clock)
        totals.append(found)
    medians = np.median(np.array(totals[1:]), axis=0) / images
    return Stages(dict(zip(STAGES, medians.tolist(), strict=True)), images, len(totals) - 1)


def _one_pass(subject: Subject, sources: Sequence[Source], clock: Callable[[], float]) -> tuple[list[float], int]:
    manifest = subject.manifest
    preparer = Preparer.of(manifest, subject.variant)
    decoding = preparing = 0.0
    patches: list[Patches] = []
    for index, source in enumerate(sources):
        marks = [clock()]
        for _ in read_frames(source, name="", profile=manifest.config):
            pass
        marks.append(clock())
        found = [image for frame in preparer(index, source) for image in frame]
        marks.append(clock())
        patches += [image.patches for image in found if image.patches is not None]
        decoding += marks[1] - marks[0]
        preparing += marks[2] - marks[1]
    prefix, most = manifest.model.prefix, manifest.config.max_images(subject.variant.backend)
    marks = [clock()]
    groups = pack_lengths([len(item) + prefix for item in patches], subject.variant.budgets[-1], most)
    packs = [Pack.of([patches[index] for index in group], prefix=prefix) for group in groups]
    marks.append(clock())
    for pack in packs:
        subject.session.run(pack, subject.outputs)
    marks.append(clock())
    return [decoding, max(0.0, preparing - decoding), *np.diff(marks).tolist()], len(patches)
