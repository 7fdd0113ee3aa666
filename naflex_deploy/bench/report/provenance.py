"""What a figure was measured on, with what, and how quiet it was."""

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
"""Other programs that want a core, above which figures are not to be trusted."""

_CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq")


@dataclass(frozen=True)
class Provenance:
    """Taken when a measurement begins.

    Attributes:
        started: ISO time, UTC.
        load: Programs that wanted to run in the minute before, on average; ``None`` where the system does not tell.
        facts: Everything else, for the report.
    """

    started: str
    load: float | None
    facts: dict[str, Any]

    @property
    def busy(self) -> bool:
        """Whether other programs were running."""
        return (self.load or 0) > BUSY


def provenance(manifest: Manifest, variant: Variant, arguments: dict[str, Any]) -> Provenance:
    """Of a bundle and this machine.

    Args:
        arguments: Of the command, the seed among them.
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
