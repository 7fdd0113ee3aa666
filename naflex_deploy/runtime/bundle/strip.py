"""Copy a bundle for the edge: one variant, and what it needs to run and to be verified."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.files import copy_files, new_directory, refuse_existing
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.runtime.bundle.bundle import Bundle

REBUILDING = frozenset({"portable.onnx", "portable.onnx.data", "calibration.json"})
"""Files that are only needed to build another variant, unless a variant shares them."""


def strip(path: Path, variant: str, output: Path, *, force: bool = False) -> Manifest:
    """Copy a bundle without its other variants, and without the files that only a rebuild needs.

    Args:
        path: Directory of the bundle.
        variant: Name of the variant to keep; this machine need not be able to run it.
        output: Directory of the copy.
        force: Replace an existing bundle.

    Returns:
        Manifest of the copy.

    Raises:
        BundleError: A file of the bundle is missing or changed.
        IncompatibleError: The bundle has no such variant.
        OutputError: ``output`` exists or cannot be written.
    """
    refuse_existing(output, force=force, made=FILE_NAME)
    bundle = Bundle.open(path)
    chosen = bundle.variant(variant)
    needed = set(bundle.files_of(chosen))
    files = {
        name: entry
        for name, entry in bundle.manifest.files.items()
        if name in needed or not (name in REBUILDING or name.startswith("variants/"))
    }
    bundle.check(files)
    manifest: Manifest = bundle.manifest.model_copy(update={"variants": [chosen], "files": files})
    with new_directory(output, force=force, made=FILE_NAME) as partial:
        copy_files(path, partial, files)
        bundle.refuse_changed(files)
        (partial / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
