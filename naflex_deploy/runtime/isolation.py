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


_NOT_FINITE = EngineError("the engine returned NaN or infinity", hint="try a variant of fp32 or bf16")


def run_isolated(
    session: Session, pack: Pack, images: Sequence[Patches], outputs: Sequence[str]
) -> list[Results | EngineError]:
    """Run a pack; where it fails or a result is not finite, run each of its images alone.

    A mask keeps attention apart but not NaN, as 0·NaN is NaN: alone, only the culprit has it. An engine that
    failed may have recovered (a worker that was killed, memory that ran out): alone, each image has a second try.

    Args:
        session: Runs packs.
        pack: Of the images, without a tail.
        images: [M], for the second run.
        outputs: Names of those wanted.

    Returns:
        [M]: per-image outputs [...] and per-token outputs [h, w, D] in float32, or why there are none.
    """
    results = _attempt(session, pack, outputs)
    if not isinstance(results, EngineError):
        if all(_finite(result) for result in results):
            return [*results]
        if len(images) == 1:
            return [_NOT_FINITE]
    return [_alone(session, Pack.of([image], prefix=pack.prefix), outputs) for image in images]


def _alone(session: Session, pack: Pack, outputs: Sequence[str]) -> Results | EngineError:
    results = _attempt(session, pack, outputs)
    if isinstance(results, EngineError):
        return results
    return results[0] if _finite(results[0]) else _NOT_FINITE


def _attempt(session: Session, pack: Pack, outputs: Sequence[str]) -> list[Results] | EngineError:
    try:
        return _run(session, pack, outputs)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return EngineError(f"the engine failed: {reason}", hint="`naflex-deploy verify BUNDLE` tests it")


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
