"""What a calibration was asked for: a run is continued, and a file is complete, only where that is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naflex_deploy.compiler.quantize.progress import Progress
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.config import ADJUSTABLE
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.profile import Profile
from naflex_deploy.core.version import __version__
from naflex_deploy.runtime.images.versions import pixel_versions
from naflex_deploy.runtime.results.key import Key, digest_of_inputs


@dataclass(frozen=True)
class Request:
    """A calibration that somebody asks for.

    Attributes:
        empty: The calibration before anything was observed.
        images: The directory of images.
        order: Its files in the order in which they are tried, relative to it.
        profile: Says how images are read, and how many.
        classes: Of files, where they were given.
        sensitivity: Whether the loss of each site is measured.
    """

    empty: QuantSpec
    images: Path
    order: Sequence[str]
    profile: Profile
    classes: Mapping[str, str]
    sensitivity: bool

    @property
    def key(self) -> Key:
        """What decides the calibration, besides the content of the images."""
        return Key(
            {
                **_stated(self.empty),
                "samples": self.profile.calibration.samples,
                "labels": dict(self.classes),
                "sensitivity": self.sensitivity,
                "settings": self.profile.model_dump(mode="json", include=set(ADJUSTABLE)),
                "naflex-deploy": __version__,
                "readers": pixel_versions(),
            }
        )

    def origin(self, progress: Progress) -> dict[str, Any]:
        """What the file says of how it was made, beyond what a calibration states itself."""
        known = {record.path: record.digest for record in progress.records}
        stated = _stated(self.empty)
        digests = {name: digest for name, digest in self.key.digests().items() if name not in stated}
        return digests | {"tried": progress.place, "inputs": self._inputs(progress.place, known)}

    def refuse_other(self, path: Path) -> QuantSpec:
        """Refuse to take a file for this calibration, unless it is.

        Returns:
            The calibration.

        Raises:
            CalibrationError: It is damaged, or no calibration.
            UsageError: It was made with something else, or of other images; names what differs.
        """
        hint = "pass --force to calibrate again, or choose another output"
        found = QuantSpec.read(path)
        if not found.origin:
            raise UsageError(f"{path} exists, and does not say what it was made with", hint=hint)
        before = {**Key(_stated(found)).digests(), **found.origin}
        differ = [name for name, digest in self.key.digests().items() if before.get(name) != digest]
        if not differ and before.get("inputs") != self._inputs(int(before.get("tried", 0)), {}):
            differ = ["inputs"]
        if differ:
            raise UsageError(f"{path} is complete, but was made with something else: {', '.join(differ)}", hint=hint)
        return found

    def _inputs(self, tried: int, known: Mapping[str, str]) -> str:
        """A digest of the files that were tried, and of their contents as they were read."""
        paths = self.order[:tried]
        return digest_of_inputs((path, known.get(path) or _content(self.images / path)) for path in paths)


def _stated(spec: QuantSpec) -> dict[str, Any]:
    """The parts of a key that a calibration states itself."""
    return {**spec.subject, "method": spec.method, "seed": spec.seed}


def _content(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        return ""
