"""Running a pack on an engine: one module a backend, all of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack

Outputs = dict[str, npt.NDArray[np.generic]]


class Session(Protocol):
    """A loaded engine."""

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        """Run one pack.

        Args:
            pack: Within the largest budget.
            outputs: Names to return.

        Returns:
            Per-image outputs [M, …] and per-token outputs [T, …] by name.
        """
        ...


def open_session(bundle: Path, variant: Variant) -> Session:
    """Load a variant's engine; its files have been checked already.

    Raises:
        IncompatibleError: The machine cannot run it.
    """
    if variant.backend == "onnxruntime":
        from naflex_deploy.runtime.sessions.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle / variant.model, variant)
    raise IncompatibleError(
        f"variant '{variant.name}' needs backend '{variant.backend}', which this version cannot run",
        hint="upgrade naflex-deploy, or build a variant with --backend onnxruntime",
    )


def cannot_run(variant: Variant) -> str | None:
    """Why this machine cannot run a variant, or ``None`` where it can, without loading its engine."""
    if variant.backend != "onnxruntime":
        return f"backend '{variant.backend}' is not available here"
    return None
