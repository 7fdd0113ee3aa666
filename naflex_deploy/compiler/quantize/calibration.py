"""Calibration: real images, prepared and packed as the runtime does, and what every linear layer reads of them.

Images come in a seeded order. Every fifth of the first ones is held out for the gate, the others are observed, in
rounds of `ROUND`: packs are made inside a round, so that a run that goes on after a kill makes the same packs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import nn

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.checkpoints.patch_resize import with_patch_size
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.golden_packs import quantized_tolerance
from naflex_deploy.compiler.head import make_head
from naflex_deploy.compiler.quantize import coverage
from naflex_deploy.compiler.quantize.coverage import Record
from naflex_deploy.compiler.quantize.images import Sample, load, read_labels, shuffled, stamp_of
from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.progress import Journal, Progress
from naflex_deploy.compiler.quantize.sensitivity import Runner, Sensitivity, analyse
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.compiler.quantize.subject import BACKEND, subject_of
from naflex_deploy.core.config import Config
from naflex_deploy.core.errors import CheckpointError, NaflexError, OutputError, UsageError
from naflex_deploy.core.files import refuse_existing
from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.images.inputs import expand
from naflex_deploy.runtime.packing.packer import pack_lengths
from naflex_deploy.runtime.packing.prefetch import prefetch
from naflex_deploy.runtime.packing.prepare import Preparer

ROUND = 32
"""Files whose images share packs."""

GATE_FILES = 32
GATE_EVERY = coverage.LEAST_IMAGES // coverage.LEAST_GATE_IMAGES + 1
GATE_TOKENS = 8192
"""Golden packs hold the float32 outputs of these, too."""

TUNING_TOKENS = 16384

KEEP_SECONDS = 20.0
"""Between two notes of how far it has come."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a calibration came to.

    Attributes:
        spec: As written.
        sensitivity: Where it was asked for.
        rejected: (path, reason) of each file that could not be used.
        warnings: What is missing from the images, and what happened to them meanwhile.
        resumed: Files that an earlier run had observed.
    """

    spec: QuantSpec
    sensitivity: Sensitivity | None
    rejected: list[tuple[str, str]]
    warnings: list[str]
    resumed: int


def calibrate(
    config: Config,
    model: str | Path | nn.Module,
    images: Path,
    output: Path,
    *,
    seed: int = 0,
    labels: Path | None = None,
    patch_size: int | None = None,
    lora: Path | None = None,
    sensitivity: Runner | None = None,
    resume: bool = False,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
    count: Callable[[int, int], None] = lambda done, total: None,
) -> Calibrated:
    """Observe a model on images and write the calibration.

    Args:
        config: The resolved profile; its section ``calibration`` says how many images and which method.
        model: What `checkpoints.read` takes.
        images: A directory of image files, subdirectories included.
        output: The file. It appears when everything was observed.
        seed: Chooses the images.
        labels: Lines of ``path,class``, so that the gate can measure accuracy.
        patch_size, lora: As for a build.
        sensitivity: Runs graphs, to measure also what each site costs in int8 and keep in float those that the gate
            needs.
        resume: Go on where a run that was stopped left off.
        force: Replace a file that is there.
        report: Called with a line at the start of each step.
        count: Called with how many files of how many are observed.

    Raises:
        UsageError: The images are too few, of one colour, or of one size where several budgets are to be served.
        CheckpointError: The model cannot be read, or computes NaN or infinity.
        OutputError: The file exists, or cannot be written.
    """
    refuse_existing(output, force=force)
    files = _list(images)
    samples = config.profile.calibration.samples
    coverage.check_count(len(files), images, config.profile)
    classes = read_labels(labels, files) if labels else {}
    report(f"reading {model if isinstance(model, str | Path) else type(model).__name__}")
    checkpoint = checkpoints.read(model, lora)
    if patch_size is not None:
        checkpoint = with_patch_size(checkpoint, patch_size)
    empty = QuantSpec(subject_of(checkpoint, config.profile), config.profile.calibration.method, seed, (), {})
    journal = Journal(output, empty, [str(images.resolve()), samples, classes])
    progress = (journal.resume() if resume else None) or journal.start(shuffled(files, seed))
    resumed = progress.observed
    costs: Sensitivity | None = None
    try:
        with TemporaryDirectory(dir=journal.folder) as folder:
            report("exporting the graph")
            portable = Path(folder) / "portable.onnx"
            export(checkpoint.model([name for name in checkpoint.architecture.outputs if ":" not in name]), portable)
            prefix, preprocessing = checkpoint.architecture.prefix, checkpoint.preprocessing
            head = make_head(config.profile.head, checkpoint)
            del checkpoint  # its weights are in the file
            observer = Observer(portable)
            report(f"observing {len(observer.sites)} activations")
            _Run(config.profile, preprocessing, prefix, images, observer, progress, classes).observe(journal, count)
            coverage.check(progress.records, images, config.profile)
            found = coverage.figures(progress.records, config.profile, prefix)
            spec = progress.spec(empty, found)
            if sensitivity is not None:
                report("measuring what each activation costs in int8")
                names = head.labels if head else ()
                tolerance = quantized_tolerance(config.profile)
                costs = analyse(portable, spec, prefix, tolerance, sensitivity, names, report)
                spec = replace(spec, float_sites=costs.float_sites)
            spec.write(output)
    except NaflexError as error:
        if not isinstance(error, OutputError):
            journal.remove()
        raise
    journal.remove()
    warnings = [*coverage.gaps(found, samples, config.profile), *_changes(images, progress)]
    if progress.copies:
        warnings.append(f"{progress.copies} files are copies of others and were left out")
    return Calibrated(spec, costs, progress.rejected, warnings, resumed)


class _Run:
    """One call, from the files to merged observations."""

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

    def observe(self, journal: Journal, count: Callable[[int, int], None]) -> None:
        """Take files until enough were observed or none is left."""
        progress = self._progress
        files = len(progress.order)
        total = min(self._samples, files - min(GATE_FILES, -(-files // GATE_EVERY)))
        pending: list[Sample] = []
        kept = time.monotonic()
        for sample in self._remaining():
            if self._take(sample):
                pending.append(sample)
            if len(pending) == ROUND:
                self._observe(pending)
                pending = []
                count(progress.observed, total)
                if time.monotonic() - kept >= KEEP_SECONDS:
                    journal.keep(progress)
                    kept = time.monotonic()
            if progress.observed == self._samples:
                break
        self._observe(pending)
        count(progress.observed, progress.observed)

    def _take(self, sample: Sample) -> bool:
        """Note a file; whether it shall be observed."""
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
        """The class of a file's image; none at all where there are no classes."""
        return [self._classes.get(path, "")] * bool(self._classes)

    def _is_for_gate(self, sample: Sample) -> bool:
        progress = self._progress
        tokens = sum(map(len, progress.gate)) + sample.tokens
        room = tokens <= GATE_TOKENS or progress.held_out < coverage.LEAST_GATE_IMAGES
        return len(progress.records) % GATE_EVERY == 0 and progress.held_out < GATE_FILES and room

    def _remaining(self) -> Iterator[Sample]:
        """The files not yet tried, in order, the next ones being read meanwhile; none where enough were observed."""
        enough = self._progress.observed == self._samples
        order = [] if enough else self._progress.order[self._progress.place :]
        with ThreadPoolExecutor(cores(), "naflex") as pool:
            try:
                work = partial(load, self._folder, prepare=self._prepare)
                yield from (sample for _, sample in prefetch(pool, work, order, depth=cores() + 1))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _observe(self, samples: Sequence[Sample]) -> None:
        """Pack the images of some files, run the packs, and merge what is seen."""
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
                    f"{names[0]} is NaN or infinite for {self._folder / culprit}: no range holds that",
                    hint="the weights are damaged, or too large for float32; check the checkpoint",
                ) from None
            sites[names] = sites[names].merged(seen) if names in sites else seen


def _list(images: Path) -> list[str]:
    """Paths of the image files of a directory, relative to it, sorted."""
    if not images.is_dir():
        found = "a file" if images.exists() else "nothing of that name"
        raise UsageError(f"--images {images}: expected a directory, found {found}", hint="pass a directory of images")
    return [path.relative_to(images).as_posix() for path in expand([images])]


def _changes(images: Path, progress: Progress) -> list[str]:
    """What happened to the directory since its files were listed and read, a sentence."""
    try:
        now = set(_list(images))
    except UsageError:
        now = set()
    then = set(progress.order)
    changed = [record for record in progress.records if record.path in now and _stamp(images, record) != record.stamp]
    counts = {"appeared": len(now - then), "vanished": len(then - now), "changed": len(changed)}
    happened = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [f"files of {images} meanwhile: {happened}; images are observed as they were read"] if happened else []


def _stamp(images: Path, record: Record) -> tuple[int, int]:
    try:
        return stamp_of(images / record.path)
    except OSError:
        return 0, 0
