"""Adds a variant to a bundle, or builds one again, from the portable graph that the bundle carries."""

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
    Report,
    measured,
    missed_gate,
    read_calibration,
    read_checkpoint,
)
from naflex_deploy.compiler.quantize.spec import QuantSpec, numbered
from naflex_deploy.compiler.quantize.subject import subject_of_bundle
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import Config, leaves
from naflex_deploy.core.errors import UsageError
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
"""Smallest budget of the packs that the portable graph runs; kept low because its scores grow with the square."""

OWN = ("name", "description", "engine.backends", "engine.precision", "engine.memory_limit", "engine.tensorrt")
"""Parts of the profile in which a variant may differ from its bundle; the others define inputs and outputs."""


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
    """Add a variant to a bundle of the same model, replacing a variant of the same name.

    Args:
        config: The resolved profile, which may differ from the bundle's only in `OWN`.
        model, patch_size, lora, labels: As for `build_bundle`; the weights must be those of the bundle.
        path: Path of the bundle, which stays unchanged until the variant has passed its gate.
        calibration: As for `rebuild`.
        report: Called with a line at the start of each step.

    Raises:
        UsageError: The bundle was built from another model or profile.
        CalibrationError, BundleError, GateError: As for `rebuild`.
    """
    Bundle.open(path)  # A path that is not a bundle must not get a lock beside it.
    with locked(path.resolve()) as lock:
        manifest = Bundle.open(path).manifest
        _refuse_other_profile(path, manifest.config, config.profile)
        checkpoint = read_checkpoint(model, patch_size, lora, labels, report)
        found, expected = checkpoint.digest(), manifest.model.digest
        if found != expected:
            raise UsageError(
                f"{path} holds {manifest.model.source} with weights {expected[:12]}…, "
                f"found {checkpoint.source} with weights {found[:12]}…",
                hint="pass the model and options that the bundle was built with, or build another bundle with -o",
            )
        return _rebuild(lock, config.profile, report, calibration)


def rebuild(
    path: Path,
    profile: Profile | None = None,
    report: Report = lambda step: None,
    *,
    calibration: Path | None = None,
) -> Variant:
    """Lower a bundle's portable graph on this machine and add the variant, replacing one of the same name.

    Args:
        path: Path of the bundle. A complete new bundle takes its place once the variant has passed its gate.
        profile: Profile with the backends, precision and targets to build; defaults to the bundle's own.
        report: Called with a line at the start of each step.
        calibration: For int8 and fp8, the file that ``calibrate`` wrote; defaults to the bundle's own. Its images
            become golden packs of the bundle, with the portable graph's outputs as the reference.

    Raises:
        UsageError: The bundle was stripped of its portable graph, or a calibration is missing.
        CalibrationError: The calibration was made for another model.
        BundleError: A file of the bundle was changed.
        LockedError: Another process is writing the bundle.
        GateError: The engine misses the gate; the bundle is unchanged.
    """
    Bundle.open(path)  # A path that is not a bundle must not get a lock beside it.
    with locked(path.resolve()) as lock:
        return _rebuild(lock, profile, report, calibration)


def _rebuild(lock: Lock, profile: Profile | None, report: Report, calibration: Path | None) -> Variant:
    """`rebuild` of the bundle that a lock guards, so that no variant that another process adds is lost."""
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
    with new_directory(path, lock, force=True, made=FILE_NAME) as partial:
        copy_files(path, partial, _files(path, but=("variants", FILE_NAME, SIGNATURE)), link=True)
        golden = Golden.read(path / GOLDEN)
        if spec is not None:
            report("running the portable graph on the images of the calibration")
            golden = _with_images(golden, spec, partial / PORTABLE, manifest)
            (partial / GOLDEN).unlink()  # It is a link to the bundle's own file, which must not be overwritten.
            golden.write(partial / GOLDEN)
            spec.write(partial / CALIBRATION)
        report(f"lowering for {backend}, {precision}")
        prefix = manifest.model.prefix
        task = Task(partial / PORTABLE, partial / "variants", profile, precision, prefix, report, spec)
        variant = lowering.lower(task)
        variant = measured(partial, variant, golden, prefix, started, report)
        if variant.gate.status == "failed":
            raise missed_gate(variant)
        others = [one for one in manifest.variants if one.name != variant.name]
        for one in others:
            copy_files(path, partial, _files(path, under=f"variants/{one.name}"), link=True)
        rebuilt = with_variant(manifest, variant, partial)
        (partial / FILE_NAME).write_text(rebuilt.to_json(), encoding="utf-8")
    if any(one.name == variant.name for one in manifest.variants):
        report(_compared(manifest, rebuilt, variant.name))
    return variant


def _with_images(golden: Golden, spec: QuantSpec, portable: Path, manifest: Manifest) -> Golden:
    """Golden packs whose real images are replaced by those of a calibration."""
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
    """The manifest with a variant added, replacing one of the same name; its files are in the bundle already."""
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
    """Describe how a variant that was built again differs from the one it replaces."""
    digests = [
        {path: entry.sha256 for path, entry in one.files.items() if path.startswith(f"variants/{name}/")}
        for one in (before, after)
    ]
    if digests[0] == digests[1]:
        return f"{name} is byte for byte the same as before"
    old, new = (next(one for one in manifest.variants if one.name == name) for manifest in (before, after))
    if old.build.get("request_sha256", "") == new.build.get("request_sha256"):
        return f"{name} was built from the same request as before; its file only lists the outputs in another order"
    changed = [
        f"{tool} {old.versions.get(tool, 'none')} before, {version} now"
        for tool, version in new.versions.items()
        if old.versions.get(tool) != version
    ]
    return f"{name} differs from before: {'; '.join(changed) or 'other options, or another version of naflex-deploy'}"


def _files(root: Path, under: str = "", but: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of a bundle's files relative to it, listed in its manifest or not, but none that a killed writer left."""
    for path in sorted((root / under).rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] not in but and not name.name.startswith("."):
            yield name.as_posix()


def _refuse_other_profile(path: Path, expected: Profile, found: Profile) -> None:
    ours, theirs = (leaves(profile.model_dump(by_alias=True)) for profile in (expected, found))
    for key, value in ours.items():
        own = f"{key}.".startswith(tuple(f"{own}." for own in OWN))
        # The bundle's profile says how many images a pack of any of its variants may hold.
        if value != theirs[key] and (not own or key.endswith(".max_images")):
            raise UsageError(
                f"{path} was built with {key} = {value}, found {theirs[key]}",
                hint="every variant of a bundle takes the same images; build another bundle with -o",
            )
