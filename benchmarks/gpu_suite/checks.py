"""Checks the promises of a session other than its results: use from many threads, and results kept in GPU memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_suite.paths import OUTPUTS, GpuPath, Results
from benchmarks.gpu_suite.run import Run
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.session import OnDevice, Session

THREADS, RUNS = 4, 40
SAME = 1e-3
"""Largest difference between two runs, relative to the largest value. Kernels may sum in another order; the results of
other images differ more."""


def sessions(run: Run, model: str, paths: dict[str, GpuPath], packs: Sequence[Pack]) -> list[dict[str, Any]]:
    """Check that every engine's session keeps its promises; failures are listed with the reason.

    Args:
        run: The run, which records failures.
        model: Name of the model.
        paths: Paths by name, of which those with a session are checked.
        packs: At least two packs that differ.
    """
    rows = []
    for name, path in paths.items():
        if path.session is None:
            continue
        for promise, kept in _promises(path.session, packs):
            try:
                error = kept()
            except Exception as failure:  # A library may fail for any reason, which goes into the table.
                run.leave_out(f"{model}, {name}, {promise}", failure)
                continue
            rows.append({"name": name, "promise": promise, "max_error": error, "passed": error <= SAME})
            run.say(f"{model}, {name}, {promise}: off by {error:.1e}")
    return rows


def _promises(session: Session, packs: Sequence[Pack]) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield each promise with the function that measures its largest difference."""
    yield f"{THREADS} threads at once", lambda: _threads(session, packs)
    if isinstance(session, OnDevice):
        yield "DLPack outputs, kept while others run", lambda: _kept(session, packs)


def _threads(session: Session, packs: Sequence[Pack]) -> float:
    alone = _one_by_one(session, packs)
    with ThreadPoolExecutor(THREADS) as pool:
        together = pool.map(lambda index: session.run(packs[index % len(packs)], OUTPUTS), range(RUNS))
        return max(_difference(found, alone[index % len(packs)]) for index, found in enumerate(together))


def _kept(session: OnDevice, packs: Sequence[Pack]) -> float:
    alone = _one_by_one(session, packs)
    kept = [session.run_on_device(pack, OUTPUTS) for pack in packs]
    for pack in packs:
        session.run(pack, OUTPUTS)
    found = [{name: torch.from_dlpack(own[name]).float().cpu().numpy() for name in OUTPUTS} for own in kept]
    return max(map(_difference, found, alone))


def _one_by_one(session: Session, packs: Sequence[Pack]) -> list[Results]:
    """Results of each pack alone, copied because a faulty session may overwrite them later."""
    runs = (session.run(pack, OUTPUTS) for pack in packs)
    return [{name: np.array(values, np.float32) for name, values in found.items()} for found in runs]


def _difference(found: Results, wanted: Results) -> float:
    """Largest difference of any output relative to its largest value; infinite if a value is not finite."""
    errors = [np.abs(found[name] - wanted[name]).max() / np.abs(wanted[name]).max() for name in OUTPUTS]
    return float(max(errors)) if np.isfinite(errors).all() else float("inf")
