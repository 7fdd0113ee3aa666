"""Calibrates a model: runs real images, prepared as at runtime, and observes the inputs of linear layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.checkpoints.patch_resize import with_patch_size
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.golden_packs import quantized_tolerance
from naflex_deploy.compiler.head import make_head
from naflex_deploy.compiler.quantize import coverage
from naflex_deploy.compiler.quantize.coverage import Record
from naflex_deploy.compiler.quantize.heat_map import heat_map
from naflex_deploy.compiler.quantize.images import read_labels, shuffled, stamp_of
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.observing import Observing
from naflex_deploy.compiler.quantize.progress import Journal, Progress
from naflex_deploy.compiler.quantize.request import Request
from naflex_deploy.compiler.quantize.sensitivity import Runner, Sensitivity, analyse
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.compiler.quantize.subject import subject_of
from naflex_deploy.core.config import Config
from naflex_deploy.core.errors import NaflexError, OutputError, UsageError, explain_os_errors
from naflex_deploy.core.files import new_file, refuse_existing
from naflex_deploy.core.locks import locked
from naflex_deploy.core.progress import OnProgress, unseen
from naflex_deploy.runtime.images.inputs import expand
from naflex_deploy.runtime.results.key import Key


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The result of a calibration.

    Attributes:
        spec: The calibration, as written.
        sensitivity: The sensitivity analysis, if it was asked for.
        rejected: (path, reason) of each file that could not be used.
        warnings: Sentences on kinds of images that are missing, and on files that changed during the run.
        resumed: Number of files that an earlier run had observed.
        complete: The file was there already, made of the same, and nothing was done.
    """

    spec: QuantSpec
    sensitivity: Sensitivity | None
    rejected: list[tuple[str, str]]
    warnings: list[str]
    resumed: int
    complete: bool = False


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
    on_progress: OnProgress = unseen,
) -> Calibrated:
    """Observe a model on images and write the calibration.

    Args:
        config: The resolved profile, whose section ``calibration`` gives the number of images and the method.
        model: A model, in any form that `checkpoints.read` accepts.
        images: A directory of image files, including its subdirectories.
        output: The file to write. It appears only once everything was observed.
        seed: Seed for the choice of images.
        labels: A file of ``path,class`` lines, with which the gate can measure accuracy.
        patch_size, lora: As for a build.
        sensitivity: Runs graphs. If given, the loss of each site in int8 is measured too, and the sites that have to
            stay float for the gate to hold are recorded; the losses are written beside the output, as JSON and as a
            heat map.
        resume: Continue where an earlier run was stopped; a file that is complete, and made of the same, is left alone.
        force: Replace an existing file.
        report: Called with a line at the start of each step.
        on_progress: Called with the number of files observed, at the start and after each round.

    Raises:
        UsageError: There are too few images, they have one colour, or they have one size although the profile has
            several budgets. Also if what is resumed was made of something else; names what differs.
        CheckpointError: The model cannot be read, or it computes NaN or infinity.
        OutputError: The file exists, cannot be written, or is being written by another process.
    """
    refuse_existing(output, force=force or resume)
    files = _list(images)
    samples = config.profile.calibration.samples
    coverage.check_count(len(files), images, config.profile)
    classes = read_labels(labels, files) if labels else {}
    report(f"reading {model if isinstance(model, str | Path) else type(model).__name__}")
    checkpoint = checkpoints.read(model, lora)
    if patch_size is not None:
        checkpoint = with_patch_size(checkpoint, patch_size)
    empty = QuantSpec(subject_of(checkpoint, config.profile), config.profile.calibration.method, seed, (), {})
    request = Request(empty, images, shuffled(files, seed), config.profile, classes, sensitivity is not None)
    journal = Journal(output, empty, Key({**request.key.parts, "images": str(images.resolve())}))
    with locked(output) as lock:
        if output.exists() and not force:
            refuse_existing(output, force=resume)  # Another run may have written it in the meantime.
            complete = request.refuse_other(output)
            journal.remove()  # A run that was killed after its output was written left it.
            return Calibrated(complete, None, [], [], 0, complete=True)
        progress = (journal.resume() if resume else None) or journal.start(request.order)
        resumed = progress.observed
        costs: Sensitivity | None = None
        try:
            with explain_os_errors(output), TemporaryDirectory(dir=journal.folder) as folder:
                report("exporting the graph")
                portable = Path(folder) / "portable.onnx"
                export(
                    checkpoint.model([name for name in checkpoint.architecture.outputs if ":" not in name]), portable
                )
                prefix, preprocessing = checkpoint.architecture.prefix, checkpoint.preprocessing
                head = make_head(config.profile.head, checkpoint)
                del checkpoint  # Its weights are in the file now.
                observer = Observer(portable)
                report(f"observing {len(observer.sites)} activations")
                Observing(config.profile, preprocessing, prefix, images, observer, progress, classes).observe(
                    journal, on_progress
                )
                coverage.check(progress.records, images, config.profile)
                found = coverage.figures(progress.records, config.profile, prefix)
                spec = replace(progress.spec(empty, found), origin=request.origin(progress))
                if sensitivity is not None:
                    report("measuring the loss of each activation in int8")
                    names = head.labels if head else ()
                    tolerance = quantized_tolerance(config.profile)
                    costs = analyse(portable, spec, prefix, tolerance, sensitivity, names, report)
                    spec = replace(spec, float_sites=costs.float_sites)
                    _write_losses(costs, output)  # First, as a complete output is not looked at again.
                spec.write(output, lock)
        except NaflexError as error:
            if not isinstance(error, OutputError):
                journal.remove()
            raise
        journal.remove()
    warnings = [*coverage.gaps(found, samples, config.profile), *_changes(images, progress)]
    if progress.copies:
        warnings.append(f"{progress.copies} files are copies of others and were left out")
    return Calibrated(spec, costs, progress.rejected, warnings, resumed)


def _write_losses(found: Sensitivity, output: Path) -> None:
    """Write the result of a sensitivity analysis next to the calibration, as JSON and as a heat map."""
    beside = output.with_name(f"{output.stem}-sensitivity.json")
    for path, text in (
        (beside, json.dumps(found.to_json(), indent=1) + "\n"),
        (beside.with_suffix(".svg"), heat_map(found)),
    ):
        with new_file(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _list(images: Path) -> list[str]:
    """Paths of the image files of a directory, relative to it, sorted."""
    if not images.is_dir():
        found = "a file" if images.exists() else "nothing of that name"
        raise UsageError(f"--images {images}: expected a directory, found {found}", hint="pass a directory of images")
    return [path.relative_to(images).as_posix() for path in expand([images])]


def _changes(images: Path, progress: Progress) -> list[str]:
    """A sentence on the files that changed since the directory was listed and read; empty if none did."""
    try:
        now = set(_list(images))
    except UsageError:
        now = set()
    then = set(progress.order)
    changed = [record for record in progress.records if record.path in now and _stamp(images, record) != record.stamp]
    counts = {"appeared": len(now - then), "vanished": len(then - now), "changed": len(changed)}
    happened = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [f"files in {images} changed during the run: {happened}; images count as they were read"] if happened else []


def _stamp(images: Path, record: Record) -> tuple[int, int]:
    try:
        return stamp_of(images / record.path)
    except OSError:
        return 0, 0
