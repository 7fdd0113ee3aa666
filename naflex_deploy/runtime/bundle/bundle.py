"""Open a bundle, choose a variant that this machine can run, and check that the files are those that were built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from naflex_deploy.core.errors import BundleError, IncompatibleError, nearest
from naflex_deploy.core.files import Identity, identity, sha256
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.core.manifest.values import GRAPH
from naflex_deploy.runtime.backends import cannot_run
from naflex_deploy.runtime.bundle.external_data import refuse_unnamed_data


@dataclass(frozen=True)
class Candidate:
    """A variant, and the reason why it cannot be used here; ``None`` where it can."""

    variant: Variant
    rejected: str | None


@dataclass(frozen=True)
class Bundle:
    """A bundle's directory and its manifest. Opening it reads nothing else."""

    path: Path
    manifest: Manifest

    identities: Mapping[str, Identity | None] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read the manifest.

        Raises:
            BundleError, IncompatibleError: See `Manifest.read`.
        """
        manifest = Manifest.read(path)
        return cls(path, manifest, {name: identity(path / name) for name in manifest.files})

    def refuse_changed(self, names: Iterable[str]) -> None:
        """Refuse files that were replaced or changed since the bundle was opened, whatever was read of them.

        Raises:
            BundleError: One was; the first one is named.
        """
        for name in names:
            if identity(self.path / name) != self.identities.get(name):
                raise BundleError(f"{self.path / name} was replaced while it was read", hint="run the command again")

    def candidates(self) -> list[Candidate]:
        """Every variant, accepted or rejected, in the profile's order of backends."""
        order: dict[str, int] = {name: rank for rank, name in enumerate(self.manifest.config.engine.backends)}
        variants = sorted(self.manifest.variants, key=lambda variant: order.get(variant.backend, len(order)))
        return [Candidate(variant, _rejection(variant)) for variant in variants]

    def choose(self, name: str | None = None) -> Variant:
        """The named variant, or the first one that this machine can run.

        Raises:
            IncompatibleError: There is no such variant, or none can run here; the message gives every reason.
        """
        candidates = self.candidates()
        if name is not None:
            self.variant(name)
            candidates = [candidate for candidate in candidates if candidate.variant.name == name]
        for candidate in candidates:
            if candidate.rejected is None:
                return candidate.variant
        reasons = "; ".join(f"{c.variant.name}: {c.rejected}" for c in candidates) or "it has no variants"
        raise IncompatibleError(f"this machine can run no variant of {self.path} ({reasons})", hint="build one here")

    def why(self, chosen: Variant) -> str:
        """Why `choose` takes this variant where none is named: the variants that it prefers, and what rejects them."""
        before = takewhile(lambda one: one.variant.name != chosen.name, self.candidates())
        rejected = [f"{one.variant.name} does not: {one.rejected}" for one in before if one.rejected]
        return "; ".join(["it is the first in the profile's order of backends that this machine accepts", *rejected])

    def variant(self, name: str) -> Variant:
        """The variant with this name, whether this machine can run it or not.

        Raises:
            IncompatibleError: There is no such variant.
        """
        try:
            return self.manifest.variant(name)
        except KeyError:
            names = [variant.name for variant in self.manifest.variants]
            raise IncompatibleError(f"{self.path} has no variant '{name}'", hint=nearest(name, names)) from None

    def check(self, names: Iterable[str]) -> None:
        """Compare files with their digests in the manifest, and what graphs among them read with what is compared.

        Raises:
            BundleError: A file is missing or changed, or a graph reads a file that is not among them; the message
                names the first such file.
        """
        names = list(names)
        text = self.manifest.text.model if self.manifest.text else None
        for name in names:
            path = self.path / name
            try:
                self._check(name)
                content = path.read_bytes() if name.endswith(GRAPH) else None
                found = sha256(path) if content is None else hashlib.sha256(content).hexdigest()
            except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links, before Python 3.13
                raise BundleError(f"{path} cannot be read: {error}", hint="copy or build the bundle again") from None
            if found != (expected := self.manifest.files[name].sha256):
                raise BundleError(
                    f"{path} was changed: expected sha256 {expected[:12]}…, found {found[:12]}…",
                    hint="copy or build the bundle again",
                )
            if content is not None:
                # Engines are loaded with the bundle as their folder; the text tower by its path.
                folder = Path(name).parent.as_posix() if name == text else "."
                refuse_unnamed_data(path, content, set(names), folder)

    def _check(self, name: str) -> None:
        expected, path = self.manifest.files.get(name), self.path / name
        if expected is None:
            raise BundleError(f"{path} is not listed in the manifest", hint="copy or build the bundle again")
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{path} lies outside the bundle", hint="copy or build the bundle again")
        if not path.is_file():
            raise BundleError(f"{path} is missing from the bundle", hint="copy or build the bundle again")
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(
                f"{path}: expected {expected.size} bytes, found {size}", hint="copy or build the bundle again"
            )

    def files_of(self, variant: Variant) -> list[str]:
        """The files that a variant needs to run: its engine, the files next to it, and those it shares."""
        folder = f"{Path(variant.model).parent.as_posix()}/"
        beside = [name for name in self.manifest.files if name.startswith(folder) and name != variant.model]
        return [variant.model, *beside, *variant.shares]


def _rejection(variant: Variant) -> str | None:
    if variant.gate.status == "failed":
        return f"it failed its gate: {variant.gate.reason}"
    return cannot_run(variant)
