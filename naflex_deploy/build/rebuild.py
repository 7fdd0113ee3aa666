"""Making a variant again, or another one, from the portable graph that a bundle carries. Needs no checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from naflex_deploy.build.lower import choose
from naflex_deploy.build.lower.task import Task
from naflex_deploy.build.pipeline import Report, gate_of
from naflex_deploy.core.errors import GateError, UsageError
from naflex_deploy.core.files import new_directory, new_file, sha256
from naflex_deploy.core.manifest import FILE_NAME, FileEntry, Manifest, Variant
from naflex_deploy.core.profile import EngineSection
from naflex_deploy.runtime.bundle import Bundle
from naflex_deploy.runtime.golden import Golden

PORTABLE = "portable.onnx"


def rebuild(path: Path, engine: EngineSection | None = None, report: Report = lambda step: None) -> Variant:
    """Lower a bundle's portable graph on this machine and put the variant into the bundle, replacing its like.

    Args:
        path: Of the bundle.
        engine: Backends, precision and targets; the bundle's own profile where it is not given.
        report: Called with a line as work goes on.

    Raises:
        UsageError: The bundle was stripped of its portable graph.
        BundleError: A file of it was changed.
        GateError: The engine misses the gate; the bundle is as it was.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if PORTABLE not in manifest.files:
        raise UsageError(f"{path} has no {PORTABLE}", hint="rebuild the bundle that this one was stripped from")
    bundle.check(name for name in manifest.files if not name.startswith("variants/"))
    profile = manifest.config.model_copy(update={"engine": engine or manifest.config.engine})
    backend, lowering, precision = choose(profile)
    report(f"lowering for {backend}, {precision}")
    with new_directory(path / ".rebuilt", force=True) as partial:
        task = Task(path / PORTABLE, partial / "variants", profile, precision, manifest.model.prefix, report)
        variant = lowering.lower(task)
        gate = gate_of(partial, variant, Golden.read(path / "golden.npz"), report)
        variant = variant.model_copy(update={"gate": gate})
        if gate.status == "failed":
            raise GateError(f"{variant.name} misses its gate: {gate.reason}", hint="use a higher precision")
    try:
        _install(path, manifest, variant)
    finally:
        shutil.rmtree(path / ".rebuilt", ignore_errors=True)
    return variant


def _install(path: Path, manifest: Manifest, variant: Variant) -> None:
    """Move a variant's files into place, then let the manifest name them."""
    folder = f"variants/{variant.name}"
    shutil.rmtree(path / folder, ignore_errors=True)
    (path / folder).parent.mkdir(exist_ok=True)
    (path / ".rebuilt" / folder).rename(path / folder)
    entries = {
        str(file.relative_to(path)): FileEntry(sha256=sha256(file), size=file.stat().st_size)
        for file in sorted((path / folder).rglob("*"))
        if file.is_file()
    }
    kept = {name: entry for name, entry in manifest.files.items() if not name.startswith(f"{folder}/")}
    variants = [one for one in manifest.variants if one.name != variant.name]
    changed = manifest.model_copy(update={"variants": [*variants, variant], "files": kept | entries})
    with new_file(path / FILE_NAME) as partial:
        partial.write_text(changed.to_json(), encoding="utf-8")
