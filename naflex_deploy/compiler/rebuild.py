"""Another variant for a bundle, or one made again, from the portable graph that it carries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort
from torch import nn

from naflex_deploy.compiler.backends.onnxruntime.lowering import caller
from naflex_deploy.compiler.backends.registry import choose
from naflex_deploy.compiler.backends.task import EIGHT_BITS, Task
from naflex_deploy.compiler.golden_packs import image_packs
from naflex_deploy.compiler.pipeline import (
    CALIBRATION,
    GOLDEN,
    HINT,
    Report,
    measured,
    read_calibration,
    read_checkpoint,
)
from naflex_deploy.compiler.quantize.spec import QuantSpec, numbered
from naflex_deploy.compiler.quantize.subject import subject_of_bundle
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import Config, leaves
from naflex_deploy.core.errors import GateError, UsageError
from naflex_deploy.core.files import copy_files, new_directory
from naflex_deploy.core.locks import Lock, locked
from naflex_deploy.core.manifest import FILE_NAME, FileEntry, Manifest, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.onnxruntime.session import session_options
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.golden import Golden
from naflex_deploy.runtime.bundle.signature import SIGNATURE

PORTABLE = "portable.onnx"
PACK_TOKENS = 256
"""Of a pack that the portable graph runs, at least: it holds scores of that squared."""

OWN = ("name", "description", "engine.backends", "engine.precision", "engine.memory_limit", "engine.tensorrt")
"""Parts of a profile that a variant may have of its own; the others say what goes in and what comes out."""


def build_into(
    config: Config,
    model: str | Path | nn.Module,
    path: Path,
    *,
    patch_size: int | None = None,
    lora: Path | None = None,
    labels: Path | None = None,
    calibration: Path | None = None,
    report: Report = lambda step: None,
) -> Variant:
    """Add a variant to a bundle of the same model, replacing its like.

    Args:
        config: The resolved profile; may differ from the bundle's in `OWN` alone.
        model, patch_size, lora, labels: As for `build_bundle`; its weights must be those of the bundle.
        path: Of the bundle. It is as it was until the variant has passed its gate.
        calibration: As for `rebuild`.
        report: Called with a line at the start of each step.

    Raises:
        UsageError: It is a bundle of another model or profile.
        CalibrationError, BundleError, GateError: See `rebuild`.
    """
    Bundle.open(path)  # what is no bundle gets no lock beside it
    with locked(path.resolve()) as lock:
        manifest = Bundle.open(path).manifest
        _refuse_other_profile(path, manifest.config, config.profile)
        checkpoint = read_checkpoint(model, patch_size, lora, labels, report)
        found, expected = checkpoint.digest(), manifest.model.digest
        if found != expected:
            raise UsageError(
                f"{path} holds {manifest.model.source} with weights {expected[:12]}…, "
                f"found {checkpoint.source} with weights {found[:12]}…",
                hint="give the model and options that the bundle was built with, or build another bundle with -o",
            )
        return _rebuild(lock, config.profile, report, calibration)


def rebuild(
    path: Path,
    profile: Profile | None = None,
    report: Report = lambda step: None,
    *,
    calibration: Path | None = None,
) -> Variant:
    """Lower a bundle's portable graph on this machine and put the variant into the bundle, replacing its like.

    Args:
        path: Of the bundle. A whole new one takes its place when the variant has passed its gate.
        profile: Gives backends, precision and targets; the bundle's own where it is not given.
        report: Called with a line as work goes on.
        calibration: For int8 and fp8: what ``calibrate`` wrote; that of the bundle where it is not given. Its images
            become golden packs of the bundle, with what the portable graph says of them.

    Raises:
        UsageError: The bundle was stripped of its portable graph, or a calibration is missing.
        CalibrationError: It was made for another model.
        BundleError: A file of it was changed.
        LockedError: Another process writes the bundle.
        GateError: The engine misses the gate; the bundle is as it was.
    """
    Bundle.open(path)  # what is no bundle gets no lock beside it
    with locked(path.resolve()) as lock:
        return _rebuild(lock, profile, report, calibration)


def _rebuild(lock: Lock, profile: Profile | None, report: Report, calibration: Path | None) -> Variant:
    """`rebuild` of the bundle that a lock guards, so that no other variant is added meanwhile, and lost."""
    started = time.perf_counter()
    path = lock.path
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if PORTABLE not in manifest.files:
        raise UsageError(f"{path} has no {PORTABLE}", hint="rebuild the bundle that this one was stripped from")
    bundle.check(name for name in manifest.files if not name.startswith("variants/"))
    profile = profile or manifest.config
    lowering, precision = choose(profile)
    backend = lowering.backend.name
    if calibration is None and precision in EIGHT_BITS and CALIBRATION in manifest.files:
        calibration = path / CALIBRATION
    spec = read_calibration(calibration, precision, profile)
    if spec is not None:
        spec.check(subject_of_bundle(manifest))
    if (path / SIGNATURE).exists():
        report(f"{path} is signed; it will have to be signed again")
    with new_directory(path, lock, force=True) as partial:
        copy_files(path, partial, _files(path, but=("variants", FILE_NAME, SIGNATURE)), link=True)
        golden = Golden.read(path / GOLDEN)
        if spec is not None:
            report("running the portable graph on the images of the calibration")
            golden = _with_images(golden, spec, partial / PORTABLE, manifest)
            (partial / GOLDEN).unlink()  # a link to the bundle's own
            golden.write(partial / GOLDEN)
            spec.write(partial / CALIBRATION)
        report(f"lowering for {backend}, {precision}")
        prefix = manifest.model.prefix
        task = Task(partial / PORTABLE, partial / "variants", profile, precision, prefix, report, spec)
        variant = lowering.lower(task)
        variant = measured(partial, variant, golden, prefix, started, report)
        if variant.gate.status == "failed":
            raise GateError(f"{variant.name} misses its gate: {variant.gate.reason}", hint=HINT)
        others = [one for one in manifest.variants if one.name != variant.name]
        for one in others:
            copy_files(path, partial, _files(path, under=f"variants/{one.name}"), link=True)
        rebuilt = with_variant(manifest, variant, partial)
        (partial / FILE_NAME).write_text(rebuilt.to_json(), encoding="utf-8")
    if any(one.name == variant.name for one in manifest.variants):
        report(_compared(manifest, rebuilt, variant.name))
    return variant


def _with_images(golden: Golden, spec: QuantSpec, portable: Path, manifest: Manifest) -> Golden:
    """Golden packs with the images of a calibration in place of those they had."""
    prefix = manifest.model.prefix
    own = image_packs(
        caller(ort.InferenceSession(str(portable), session_options(portable.parent))),
        spec.gate_samples,
        numbered(spec.gate_labels, manifest.head.labels if manifest.head else ()),
        prefix=prefix,
        budget=max(PACK_TOKENS, *(len(image) + prefix for image in spec.gate_samples)),
        max_images=manifest.config.packing.max_images,
    )
    return Golden([*(item for item in golden.packs if item.labels is None), *own], golden.tolerances)


def with_variant(manifest: Manifest, variant: Variant, bundle: Path) -> Manifest:
    """The manifest of a bundle that has gained a variant, whose files lie in it, in place of its like."""
    folder = f"variants/{variant.name}/"
    beside = {name: FileEntry.of(bundle / name) for name in (GOLDEN, CALIBRATION) if (bundle / name).exists()}
    kept = {name: entry for name, entry in manifest.files.items() if not name.startswith(folder)}
    backends = manifest.config.engine.backends
    if variant.backend not in backends:
        backends = sorted([*backends, variant.backend], key=list(FOLDERS).index)
    engine = manifest.config.engine.model_copy(update={"backends": backends})
    return manifest.model_copy(
        update={
            "variants": [*(one for one in manifest.variants if one.name != variant.name), variant],
            "files": kept | beside | FileEntry.below(bundle, folder),
            "config": manifest.config.model_copy(update={"engine": engine}),
        }
    )


def _compared(before: Manifest, after: Manifest, name: str) -> str:
    """Whether a variant that was built again is what it was."""
    digests = [
        {path: entry.sha256 for path, entry in one.files.items() if path.startswith(f"variants/{name}/")}
        for one in (before, after)
    ]
    if digests[0] == digests[1]:
        return f"{name} is the same to the byte as before"
    old, new = (next(one for one in manifest.variants if one.name == name) for manifest in (before, after))
    if old.build.get("request_sha256", "") == new.build.get("request_sha256"):
        return f"{name} is built from what it was built from before; in its file, outputs lie in another order"
    changed = [
        f"{tool} {old.versions.get(tool, 'none')} before, {version} now"
        for tool, version in new.versions.items()
        if old.versions.get(tool) != version
    ]
    return f"{name} differs from before: {'; '.join(changed) or 'other options, or another version of naflex-deploy'}"


def _files(root: Path, under: str = "", but: tuple[str, ...] = ()) -> Iterator[str]:
    """Files of a bundle, listed in its manifest or not, by their path in it; none that a killed writer left."""
    for path in sorted((root / under).rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] not in but and not name.name.startswith("."):
            yield name.as_posix()


def _refuse_other_profile(path: Path, expected: Profile, found: Profile) -> None:
    ours, theirs = (leaves(profile.model_dump(by_alias=True)) for profile in (expected, found))
    for key, value in ours.items():
        if value != theirs[key] and not f"{key}.".startswith(tuple(f"{own}." for own in OWN)):
            raise UsageError(
                f"{path} was built with {key} = {value}, found {theirs[key]}",
                hint="every variant of a bundle takes the same images; build another bundle with -o",
            )
