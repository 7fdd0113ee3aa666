"""Runs calibration images through the model, from files to merged observations.

Images come in a seeded order. Every fifth of the first ones is held out for the gate, and the others are observed in
rounds of `ROUND`. Packs never span rounds, so that a run that resumes after it was killed makes the same packs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from naflex_deploy.compiler.quantize import coverage
from naflex_deploy.compiler.quantize.coverage import Record
from naflex_deploy.compiler.quantize.images import Sample, load
from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.progress import Journal, Progress
from naflex_deploy.compiler.quantize.subject import BACKEND
from naflex_deploy.core.errors import CheckpointError
from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.core.progress import Counts, OnProgress
from naflex_deploy.runtime.packing.packer import pack_lengths
from naflex_deploy.runtime.packing.prefetch import prefetch
from naflex_deploy.runtime.packing.prepare import Preparer

ROUND = 32
"""Number of files whose images can share packs."""

GATE_FILES = 32
GATE_EVERY = coverage.LEAST_IMAGES // coverage.LEAST_GATE_IMAGES + 1
GATE_TOKENS = 8192
"""Largest number of tokens held out for the gate; kept low because golden packs also store their float32 outputs."""

TUNING_TOKENS = 16384

KEEP_SECONDS = 20.0
"""Shortest time between two saves of the progress."""


class Observing:
    """One calibration run, from the files to merged observations."""

    def __init__(
        self,
        profile: Profile,
        preprocessing: Preprocessing,
        prefix: int,
        folder: Path,
        observer: Observer,
        progress: Progress,
        classes: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._observer = observer
        self._progress = progress
        self._classes = classes
        self._prefix = prefix
        self._prepare = Preparer(preprocessing, profile, BACKEND, prefix)
        self._budget = profile.budgets(BACKEND)[-1]
        self._max_images = profile.packing.max_images
        self._samples = profile.calibration.samples
        self._seen = {record.digest for record in progress.records}

    def observe(self, journal: Journal, on_progress: OnProgress) -> None:
        """Observe files until there are enough or none is left."""
        progress = self._progress
        files = len(progress.order)
        total = min(self._samples, files - min(GATE_FILES, -(-files // GATE_EVERY)))
        before, images, tokens = progress.observed, 0, 0
        on_progress(Counts(before, total, before))
        pending: list[Sample] = []
        kept = time.monotonic()
        for sample in self._remaining():
            if self._take(sample):
                pending.append(sample)
                images += len(sample.images)
                tokens += sample.tokens
            if len(pending) == ROUND:
                self._observe(pending)
                pending = []
                on_progress(Counts(progress.observed, total, before, images, tokens))
                if time.monotonic() - kept >= KEEP_SECONDS:
                    journal.keep(progress)
                    kept = time.monotonic()
            if progress.observed == self._samples:
                break
        self._observe(pending)
        on_progress(Counts(progress.observed, progress.observed, before, images, tokens))

    def _take(self, sample: Sample) -> bool:
        """Record a file; returns whether it is to be observed."""
        progress = self._progress
        progress.place += 1
        if sample.error is not None:
            progress.rejected.append((sample.path, str(sample.error)))
            return False
        if sample.digest in self._seen:
            progress.copies += 1
            return False
        self._seen.add(sample.digest)
        gate = self._is_for_gate(sample)
        progress.records.append(Record.of(sample, gate=gate))
        if gate:
            progress.held_out += 1
            progress.gate += sample.images
            progress.gate_labels += self._labels(sample.path) * len(sample.images)
        return not gate

    def _labels(self, path: str) -> list[str]:
        """The class of a file's image; empty if no classes were given."""
        return [self._classes.get(path, "")] * bool(self._classes)

    def _is_for_gate(self, sample: Sample) -> bool:
        progress = self._progress
        tokens = sum(map(len, progress.gate)) + sample.tokens
        room = tokens <= GATE_TOKENS or progress.held_out < coverage.LEAST_GATE_IMAGES
        return len(progress.records) % GATE_EVERY == 0 and progress.held_out < GATE_FILES and room

    def _remaining(self) -> Iterator[Sample]:
        """Yield the files not yet tried, in order, reading ahead; nothing if enough were observed already."""
        enough = self._progress.observed == self._samples
        order = [] if enough else self._progress.order[self._progress.place :]
        with ThreadPoolExecutor(cores(), "naflex") as pool:
            try:
                work = partial(load, self._folder, prepare=self._prepare)
                yield from (sample for _, sample in prefetch(pool, work, order, depth=cores() + 1))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _observe(self, samples: Sequence[Sample]) -> None:
        """Pack the images of some files, run the packs, and merge the observations."""
        images = [(sample.path, image) for sample in samples for image in sample.images]
        for path, image in images:
            if sum(map(len, self._progress.tuning)) + len(image) <= TUNING_TOKENS or not self._progress.tuning:
                self._progress.tuning.append(image)
                self._progress.tuning_labels += self._labels(path)
        lengths = [len(image) + self._prefix for _, image in images]
        for members in pack_lengths(lengths, self._budget, self._max_images):
            self._merge([images[index] for index in members])

    def _merge(self, members: Sequence[tuple[str, Patches]]) -> None:
        pack = Pack.of([image for _, image in members], prefix=self._prefix)
        sites = self._progress.sites
        for names, values in self._observer.activations(pack):
            try:
                seen = SiteObservation.of(values)
            except FloatingPointError:
                row = int(np.argmin(np.isfinite(values).all(1)))
                culprit = members[int(pack.segment_ids[row]) if len(values) == pack.tokens else row][0]
                raise CheckpointError(
                    f"{names[0]} is NaN or infinite for {self._folder / culprit}, which no range can cover",
                    hint="the weights are damaged, or too large for float32; check the checkpoint",
                ) from None
            sites[names] = sites[names].merged(seen) if names in sites else seen
