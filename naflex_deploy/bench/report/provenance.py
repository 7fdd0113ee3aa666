"""Records on which machine and with which versions figures were measured, and whether the machine was quiet."""

from __future__ import annotations

import datetime
import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import naflex_deploy
from naflex_deploy.core.machine import cores, cpu_flags
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.runtime.backends import executed_by

BUSY = 0.5
"""Load average above which figures cannot be trusted, because other programs compete for the cores."""

_CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True)
class Provenance:
    """The provenance of a measurement, recorded when it begins.

    Attributes:
        started: Start of the measurement, as an ISO time in UTC.
        load: Load average over the minute before; ``None`` if the system does not report one.
        facts: Further facts for the report.
    """

    started: str
    load: float | None
    facts: dict[str, Any]

    @property
    def busy(self) -> bool:
        """Whether other programs were competing for the cores."""
        return (self.load or 0) > BUSY


def provenance(manifest: Manifest, variant: Variant, arguments: dict[str, Any]) -> Provenance:
    """Record the provenance of a measurement of a bundle on this machine.

    Args:
        manifest: Manifest of the bundle.
        variant: Variant that is measured.
        arguments: Arguments of the command, including the seed.
    """
    facts = {
        "executed": executed_by(variant.backend).model_dump(),
        "cpu_flags": cpu_flags(),
        "cpu_clock": {name: _read(_CLOCK / f"scaling_{name}") for name in ("governor", "cur_freq", "max_freq")},
        "threads": cores(),
        "versions": {
            "naflex-deploy": naflex_deploy.__version__,
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("numpy", "pillow", "onnxruntime")},
        },
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("OMP_", "ORT_"))},
        "model": {"source": manifest.model.source, "digest": manifest.model.digest, "built_by": manifest.tool},
        "variant": {
            "name": variant.name,
            "precision": variant.precision,
            "budgets": variant.budgets,
            "versions": variant.versions,
            "sha256": manifest.files[variant.model].sha256,
        },
        "profile": manifest.config.model_dump(mode="json", by_alias=True, exclude_none=True),
        "arguments": arguments,
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Provenance(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), load, facts)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
