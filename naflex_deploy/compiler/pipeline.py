"""Builds a bundle from a checkpoint, and measures it on its golden packs before it gets its final name."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
from torch import nn

import naflex_deploy
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.compiler.backends.registry import choose_all
from naflex_deploy.compiler.backends.task import EIGHT_BITS, Task, missing_calibration
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.patch_resize import with_patch_size
from naflex_deploy.compiler.checkpoints.text_checkpoint import read_text, stands_beside
from naflex_deploy.compiler.export import export, input_specs, output_specs
from naflex_deploy.compiler.golden_images import golden_contents
from naflex_deploy.compiler.golden_packs import make_golden
from naflex_deploy.compiler.head import make_head
from naflex_deploy.compiler.quantize.spec import QuantSpec, numbered
from naflex_deploy.compiler.quantize.subject import subject_of
from naflex_deploy.compiler.text_tower import add_text
from naflex_deploy.compiler.witness.process import asking
from naflex_deploy.compiler.witness.witness import outcome, request_for
from naflex_deploy.compiler.zero_shot import cut_texts, read_labels, with_labels
from naflex_deploy.core.config import Config
from naflex_deploy.core.errors import GateError, UsageError, needs_extra
from naflex_deploy.core.files import new_directory, refuse_existing, sync_tree
from naflex_deploy.core.machine import peak_memory
from naflex_deploy.core.manifest import (
    FILE_NAME,
    SCHEMA,
    FileEntry,
    Gate,
    Head,
    Manifest,
    Model,
    TextTower,
    Variant,
    Witness,
)
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends import cannot_run, executed_by, find, open_session
from naflex_deploy.runtime.bundle.footprint import run_peak
from naflex_deploy.runtime.bundle.golden import Golden, measure
from naflex_deploy.runtime.bundle.golden_images import FILE as GOLDEN_IMAGES
from naflex_deploy.runtime.bundle.golden_images import GoldenImages

Report = Callable[[str], None]

GOLDEN, CALIBRATION = "golden.npz", "calibration.json"


def build_bundle(
    config: Config,
    model: str | Path | nn.Module,
    output: Path,
    *,
    patch_size: int | None = None,
    lora: Path | None = None,
    labels: Path | None = None,
    text: bool = False,
    calibration: Path | None = None,
    witness: bool = True,
    force: bool = False,
    report: Report = lambda step: None,
) -> Manifest:
    """Build a bundle.

    Args:
        config: The resolved profile.
        model: A model, in any form that `checkpoints.read` accepts.
        output: The bundle's directory. It appears only once the build has passed its gate.
        patch_size: Resize the model's patch projection to patches of this many pixels a side.
        lora: A directory in which peft saved an adapter, which is merged into the weights.
        labels: A file of texts, which become the classes of a two-tower model.
        text: Put the text tower into the bundle too.
        calibration: The file that ``calibrate`` wrote; int8 and fp8 need it.
        witness: Compare the graph with the original model, where transformers or timm can load it.
        force: Replace an existing bundle.
        report: Called with a line at the start of each step.

    Returns:
        The manifest that was written.

    Raises:
        UsageError: A calibration is missing, or was given for a precision that takes none.
        CalibrationError: The calibration is damaged, or was made for another model or profile.
        CheckpointError: The model cannot be read.
        OutputError: The directory exists, or cannot be written.
        GateError: The graph differs from the original model, or the engine misses the gate; in the second case the
            rejected bundle is left at ``<output>.rejected``.
        MissingExtraError: The text tower is asked for, and the package ``tokenizers`` is not installed.
    """
    refuse_existing(output, force=force, made=FILE_NAME)
    started = time.perf_counter()
    chosen = choose_all(config.profile)
    backend, precision = chosen[0][0].backend.name, chosen[0][1]
    spec = read_calibration(calibration, precision, config.profile)
    if text:
        with needs_extra("text"):  # before minutes are spent on the image tower
            import tokenizers  # noqa: F401
    checkpoint = read_checkpoint(model, patch_size, lora, labels, report)
    if config.profile.video.frames == "even":
        checkpoint = checkpoint.for_clips()
    head = make_head(config.profile.head, checkpoint)
    if spec is not None:
        spec.check(subject_of(checkpoint, config.profile))
    outputs = requested_outputs(config.profile, checkpoint)
    beside = text and stands_beside(model)
    request = request_for(checkpoint, outputs, text=beside, wanted=witness)
    asked_for, reason = (None, request) if isinstance(request, str) else (request, "")
    with new_directory(output, force=force, made=FILE_NAME) as partial, asking(asked_for) as asked:
        report("exporting the portable graph")
        portable = partial / "portable.onnx"
        export(checkpoint.model(outputs), portable)
        tower = add_text(read_text(model, lora), partial) if text else None
        report("running the reference model on the golden packs")
        prefix = checkpoint.architecture.prefix
        golden = make_golden(
            checkpoint,
            config.profile,
            outputs,
            budget=config.profile.budgets(backend)[-1],
            image_tokens=config.profile.image_tokens(backend, prefix),
            images=spec.gate_samples if spec else (),
            labels=numbered(spec.gate_labels, head.labels if head else ()) if spec else (),
        )
        golden.write(partial / GOLDEN)
        GoldenImages.of(golden_contents(), checkpoint.preprocessing).write(partial / GOLDEN_IMAGES)
        if spec is not None:
            spec.write(partial / CALIBRATION)
        if asked:
            report("comparing the portable graph with the original model")
        found = outcome(asked, reason, partial, checkpoint, tower if beside else None)
        task = Task(portable, partial / "variants", config.profile, precision, prefix, report, spec)
        variants = list(_variants(chosen, task, golden, started))
        variant = variants[-1]
        manifest = _manifest(config, checkpoint, partial, variants, head, tower, found)
        (partial / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
        if variant.gate.status == "failed":
            rejected = output.with_name(f"{output.name}.rejected")
            shutil.rmtree(rejected, ignore_errors=True)
            sync_tree(partial)
            partial.rename(rejected)
            raise missed_gate(variant, f"; what was built is at {rejected}")
    return manifest


def missed_gate(variant: Variant, more: str = "") -> GateError:
    """The error of a variant that misses its gate; the profile's ``[gate]`` holds for eight bits alone."""
    hint = (
        "--precision fp32 has the tightest gate; if it misses too, `naflex-deploy doctor` names the versions to report"
    )
    if variant.precision in EIGHT_BITS:
        hint = "use a higher precision, `calibrate --sensitivity`, or a looser [gate] if that loss is acceptable"
    return GateError(f"{variant.name} misses its gate: {variant.gate.reason}{more}", hint=hint)


def _variants(chosen: Sequence[tuple[Lowering, str]], task: Task, golden: Golden, started: float) -> Iterator[Variant]:
    """Make and measure every engine that was chosen. One that misses its gate is left out if another one follows."""
    for number, (lowering, precision) in enumerate(chosen, 1):
        task.report(f"lowering for {lowering.backend.name}, {precision}")
        variant = lowering.lower(dataclasses.replace(task, precision=precision))
        variant = measured(task.portable.parent, variant, golden, task.prefix, started, task.report)
        if variant.gate.status != "failed" or number == len(chosen):
            yield variant
        else:
            task.report(f"{variant.name} is left out, because it misses its gate: {variant.gate.reason}")
            shutil.rmtree(task.directory / variant.name)


def read_checkpoint(
    model: str | Path | nn.Module, patch_size: int | None, lora: Path | None, labels: Path | None, report: Report
) -> Checkpoint:
    """Read the checkpoint that the arguments of `build_bundle` describe."""
    named = read_labels(labels) if labels else []
    report(f"reading {model if isinstance(model, str | Path) else type(model).__name__}")
    checkpoint = checkpoints.read(model, lora)
    if checkpoint.left_out:
        report(f"not read, as they are no part of the model: {', '.join(checkpoint.left_out)}")
    if patch_size is not None:
        checkpoint = with_patch_size(checkpoint, patch_size)
    if named:
        report(f"embedding {len(named)} labels")
        tower = read_text(model, lora)
        for cut in cut_texts(tower, named):
            report(f"a text is cut after {tower.tokens.length} tokens: {cut}")
        checkpoint = with_labels(checkpoint, tower, named)
    return checkpoint


def read_calibration(path: Path | None, precision: str, profile: Profile) -> QuantSpec | None:
    """Read the calibration of a build; ``None`` if its precision takes none.

    Raises:
        UsageError: The calibration is missing, or was given for a precision that takes none.
        CalibrationError: The calibration is damaged.
    """
    if precision not in EIGHT_BITS:
        if path is not None:
            expected = " or ".join(EIGHT_BITS)
            raise UsageError(f"a calibration is for {expected}, found precision {precision}", hint="--precision int8")
        return None
    if path is None:
        raise missing_calibration(precision, profile)
    return QuantSpec.read(path)


def requested_outputs(profile: Profile, checkpoint: Checkpoint) -> tuple[str, ...]:
    """The profile's outputs, plus ``logits`` if the model has a classifier, and with ``vlm`` what else its language
    model takes.

    Raises:
        UsageError: The profile asks for an output that the model does not have.
    """
    a = checkpoint.architecture
    names = list(profile.outputs)
    if a.classes and "logits" not in names:
        names.append("logits")
    if "vlm" in names and a.projector:
        names += [name for k in range(len(a.projector.taps)) if (name := f"deepstack:{k}") not in names]
    a.check_outputs(names)
    return tuple(names)


def measured(bundle: Path, variant: Variant, golden: Golden, prefix: int, started: float, report: Report) -> Variant:
    """Add to a variant the outcome of its gate on this machine, and the time and memory that its build took.

    Args:
        bundle: Directory that holds the variant's files.
        variant: The variant as lowered.
        golden: Packs to measure it on.
        prefix: Prefix tokens of the model.
        started: Value of `time.perf_counter` when the build began.
        report: Called with a line at the start of each step.
    """
    gate = gate_of(bundle, variant, golden, report)
    figures = {"seconds": round(time.perf_counter() - started, 2), "peak_memory_bytes": peak_memory()}
    if not find(variant.backend).on_gpu and gate.status == "passed":
        figures["run_peak_memory_bytes"] = run_peak(bundle, variant, prefix)
    return variant.model_copy(update={"gate": gate, "build": {**variant.build, **figures}})


def gate_of(bundle: Path, variant: Variant, golden: Golden, report: Report) -> Gate:
    """Measure a variant on this machine; its gate is unmeasured, with the reason, if it cannot run here."""
    if reason := cannot_run(variant):
        return Gate(status="unmeasured", reason=reason)
    report(f"measuring {variant.name} on the golden packs")
    return measure(open_session(bundle, variant), golden, variant.precision, executed_by(variant.backend))


def _manifest(
    config: Config,
    checkpoint: Checkpoint,
    bundle: Path,
    variants: list[Variant],
    head: Head | None,
    text: TextTower | None,
    witness: Witness,
) -> Manifest:
    graph = onnx.load(str(bundle / "portable.onnx"), load_external_data=False)
    a = checkpoint.architecture
    return Manifest(
        schema=SCHEMA,
        tool=f"naflex-deploy {naflex_deploy.__version__}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=Model(
            source=checkpoint.source,
            digest=checkpoint.digest(),
            architecture=dataclasses.asdict(a),
            parameters=sum(tensor.numel() for tensor in checkpoint.weights.values()),
            prefix=a.prefix,
            family=checkpoint.family,
            tower=dataclasses.asdict(a.projector) if a.projector else {},
        ),
        preprocessing=checkpoint.preprocessing,
        preprocessing_origins=dict(checkpoint.origins),
        witness=witness,
        head=head,
        text=text,
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        variants=variants,
        files=FileEntry.below(bundle),
        config=config.profile,
        origins=config.origins,
    )
