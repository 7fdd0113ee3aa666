"""Run a pack so that what goes wrong with one image stays with that image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.sessions import Session

Results = dict[str, npt.NDArray[np.float32]]


class EngineError(NaflexError):
    """The engine failed on an image, or returned NaN or infinity for it."""


def run_isolated(
    session: Session, pack: Pack, images: Sequence[Patches], outputs: Sequence[str]
) -> list[Results | EngineError]:
    """Run a pack; where it fails or a result is not finite, run each of its images alone.

    A mask keeps attention apart but not NaN, as 0·NaN is NaN: alone, only the culprit has it.

    Args:
        session: Runs packs.
        pack: Of the images, without a tail.
        images: [M], for the second run.
        outputs: Names of those wanted.

    Returns:
        [M]: per-image outputs [...] and per-token outputs [h, w, D] in float32, or why there are none.
    """
    try:
        results = _run(session, pack, outputs)
    except Exception as error:
        if len(images) == 1:
            return [_failure(error)]
        results = []
    if results and all(_finite(result) for result in results):
        return [*results]
    if len(images) == 1:
        return [EngineError("the engine returned NaN or infinity", hint="try a variant of fp32 or bf16")]
    alone = [run_isolated(session, Pack.of([image], prefix=pack.prefix), [image], outputs) for image in images]
    return [result for results in alone for result in results]


def _run(session: Session, pack: Pack, outputs: Sequence[str]) -> list[Results]:
    found = {name: values.astype(np.float32, copy=False) for name, values in session.run(pack, outputs).items()}
    if pack.images == 1:
        return [{name: _split(name, values, pack)[0] for name, values in found.items()}]
    # Copies, so that keeping one result does not keep the whole pack.
    parts = {name: [part.copy() for part in _split(name, values, pack)] for name, values in found.items()}
    return [{name: part[index] for name, part in parts.items()} for index in range(pack.images)]


def _split(name: str, values: npt.NDArray[np.float32], pack: Pack) -> list[npt.NDArray[np.float32]]:
    return pack.split(values) if name.startswith("tokens") else list(values)


def _finite(result: Results) -> bool:
    return all(bool(np.isfinite(values).all()) for values in result.values())


def _failure(error: Exception) -> EngineError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return EngineError(f"the engine failed: {reason}", hint="see the server's log; `naflex-deploy verify` tests it")
