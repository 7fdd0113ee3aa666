"""Measure the peak memory of a variant: load it and run its largest pack, in a separate process.

The kernel counts mapped weights once they are read, so the figure holds two copies of the weights: the mapped file,
and the copy that ONNX Runtime rearranges for matrix products.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.machine import peak_memory
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.backends import open_session


def run_peak(bundle: Path, variant: Variant, prefix: int) -> int:
    """Peak resident memory of a variant, in bytes.

    Args:
        prefix: Number of prefix tokens of the model.

    Raises:
        NaflexError: The variant does not run; the message holds the last line of its error output.
    """
    done = subprocess.run(
        [sys.executable, "-m", "naflex_deploy.runtime.bundle.footprint", str(bundle), str(prefix)],
        input=variant.model_dump_json(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NaflexError(f"{variant.name} does not run its largest pack: {reason}")
    return int(done.stdout)


def _run(bundle: Path, variant: Variant, prefix: int) -> None:
    session = open_session(bundle, variant)
    (spec,) = [spec for spec in variant.inputs if spec.role == Role.PATCHES]
    tokens = variant.budgets[-1] - prefix
    patches = Patches(np.zeros((tokens, int(spec.shape[1])), spec.dtype), (1, tokens))
    session.run(Pack.of([patches], prefix=prefix), [output.name for output in variant.outputs])


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Variant.model_validate_json(sys.stdin.read()), int(sys.argv[2]))
    print(peak_memory())
