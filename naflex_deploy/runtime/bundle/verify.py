"""Verify a bundle on the machine at hand: its files, its golden images, and every engine that runs here."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from naflex_deploy.core.errors import BundleError, IncompatibleError, MissingExtraError, OutputError
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import LockedError
from naflex_deploy.core.machine import cpu_flags
from naflex_deploy.core.manifest import FILE_NAME, Executed, Gate, Manifest
from naflex_deploy.runtime.backends import cannot_run, executed_by, open_session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.golden import Golden, measure
from naflex_deploy.runtime.bundle.golden_images import FILE, GoldenImages, PixelCheck
from naflex_deploy.runtime.bundle.lock import locked_bundle
from naflex_deploy.runtime.bundle.signature import SIGNATURE, verify_signature


@dataclass(frozen=True)
class Verification:
    """Result of a verification.

    Attributes:
        gates: Gate of each variant; a variant that cannot run here is unmeasured, with the reason.
        pixels: Whether the image libraries here give the pixels of the build; ``None`` for a bundle without
            golden images.
        report: Path of the hardware report; ``None`` where the bundle is read-only.
    """

    gates: dict[str, Gate]
    report: Path | None
    pixels: PixelCheck | None = None

    @property
    def passed(self) -> bool:
        """At least one variant was measured, none failed, and images give the pixels of the build."""
        statuses = {gate.status for gate in self.gates.values()}
        sound = self.pixels is None or self.pixels.passed
        return sound and "failed" not in statuses and "passed" in statuses


def verify(path: Path, public_key: Path | None = None) -> Verification:
    """Check every digest, run the golden packs, and write the result into the bundle where it is writable.

    The manifest of a signed bundle is left as it was signed; the result is then only in the report.

    Args:
        path: Directory of the bundle.
        public_key: Key that must have signed the bundle, checked before anything else; see `verify_signature`.

    Raises:
        BundleError: A file is missing or changed, the signature is missing or not valid, or the bundle was replaced
            meanwhile.
        LockedError: Another process writes the bundle.
        IncompatibleError: A newer version of the tool wrote the bundle.
    """
    if public_key is not None:
        verify_signature(path, public_key)
    bundle = Bundle.open(path)
    bundle.check(bundle.manifest.files)
    golden = Golden.read(path / "golden.npz")
    pixels = None
    if FILE in bundle.manifest.files:
        pixels = GoldenImages.read(path / FILE).check(bundle.manifest.preprocessing)
    executed = executed_by("onnxruntime")
    gates = {}
    for variant in bundle.manifest.variants:
        try:
            if reason := cannot_run(variant):
                raise IncompatibleError(reason)
            gates[variant.name] = measure(
                open_session(path, variant), golden, variant.precision, executed_by(variant.backend)
            )
        except (IncompatibleError, MissingExtraError) as error:
            gates[variant.name] = Gate(status="unmeasured", reason=error.message)
    return Verification(gates, _record(bundle, gates, executed, pixels), pixels)


def _record(bundle: Bundle, gates: dict[str, Gate], executed: Executed, pixels: PixelCheck | None) -> Path | None:
    report = bundle.path / "reports" / f"verify-{platform.node() or 'host'}.json"
    content = {
        "schema": 1,
        "executed": executed.model_dump(),
        "cpu_flags": cpu_flags(),
        "gates": {name: gate.model_dump(exclude={"executed"}) for name, gate in gates.items()},
        "pixels": asdict(pixels) if pixels else None,
    }
    try:
        with locked_bundle(bundle.path):
            manifest = _unchanged(bundle)
            with new_file(report) as partial:
                partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if not (bundle.path / SIGNATURE).exists():
                with new_file(bundle.path / FILE_NAME) as partial:
                    partial.write_text(_with_gates(manifest, gates).to_json(), encoding="utf-8")
    except LockedError:
        raise
    except OutputError:
        return None
    return report


def _unchanged(bundle: Bundle) -> Manifest:
    """The manifest as it is now: another run may have filled in gates, but not replaced what was verified."""
    manifest = Manifest.read(bundle.path)
    if manifest.files != bundle.manifest.files:
        raise BundleError(f"{bundle.path} was replaced while it was verified", hint="verify it again")
    return manifest


def _with_gates(manifest: Manifest, gates: dict[str, Gate]) -> Manifest:
    measured = {name: gate for name, gate in gates.items() if gate.status != "unmeasured"}
    variants = [v.model_copy(update={"gate": measured.get(v.name, v.gate)}) for v in manifest.variants]
    return manifest.model_copy(update={"variants": variants})
