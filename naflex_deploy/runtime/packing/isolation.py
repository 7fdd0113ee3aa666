"""Run a pack so that what goes wrong with one image stays with that image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.session import Outputs, Session

Results = dict[str, npt.NDArray[np.float32]]


class EngineError(NaflexError):
    """The engine failed, on an image or altogether, or returned NaN or infinity for an image."""


def run_isolated(
    session: Session, pack: Pack, images: Sequence[Patches], outputs: Sequence[str]
) -> list[Results | EngineError]:
    """Run a pack; where it fails or a result is not finite, run each of its images alone.

    A mask keeps attention apart but not NaN, as 0·NaN is NaN: alone, only the culprit has it. Whatever the engine
    fails on has a second try, as it may have recovered: a worker that was killed, memory that ran out.

    Args:
        session: Runs packs.
        pack: Of the images, without a tail.
        images: [M], for the second run.
        outputs: Names of those wanted.

    Returns:
        [M]: per-image outputs [...] and per-token outputs [h, w, D] in float32, or why there are none.

    Raises:
        EngineError: The engine fails on a blank image too: nothing is known against these.
    """
    try:
        results = _attempt(session, pack, outputs)
        if all(map(_finite, results)):
            return [*results]
        failure = _not_finite()
    except EngineError as error:
        if not _runs(session, Pack.of([_blank(images[0])], prefix=pack.prefix), outputs):
            raise
        failure = error
    if len(images) == 1:
        return [failure]
    return [_alone(session, Pack.of([image], prefix=pack.prefix), outputs) for image in images]


def _alone(session: Session, pack: Pack, outputs: Sequence[str]) -> Results | EngineError:
    try:
        (result,) = _attempt(session, pack, outputs)
    except EngineError as error:
        return error
    return result if _finite(result) else _not_finite()


def _runs(session: Session, pack: Pack, outputs: Sequence[str]) -> bool:
    try:
        _attempt(session, pack, outputs)
    except EngineError:
        return False
    return True


def _attempt(session: Session, pack: Pack, outputs: Sequence[str]) -> list[Results]:
    try:
        return _run(session, pack, outputs)
    except Exception:
        try:
            return _run(session, pack, outputs)
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            hint = "`naflex-deploy verify BUNDLE` tests it"
            raise EngineError(f"the engine failed: {reason}", hint=hint) from error


def _run(session: Session, pack: Pack, outputs: Sequence[str]) -> list[Results]:
    found = session.run(pack, outputs)
    parts = {name: _split(name, found, pack) for name in outputs}
    return [{name: part[index] for name, part in parts.items()} for index in range(pack.images)]


def _split(name: str, found: Outputs, pack: Pack) -> list[npt.NDArray[np.float32]]:
    if name not in found:
        raise ValueError(f"it returned {sorted(found)}, expected '{name}' among them")
    values, per_token = found[name], name.startswith("tokens")
    rows = pack.tokens if per_token else pack.images
    if len(values) != rows:
        raise ValueError(f"it returned '{name}' of {len(values)} rows, expected {rows}")
    # Copies, so that keeping one result does not keep the whole pack, and the session may use its memory again.
    return [part.astype(np.float32) for part in (pack.split(values) if per_token else values)]


def _finite(result: Results) -> bool:
    return all(bool(np.isfinite(values).all()) for values in result.values())


def _not_finite() -> EngineError:
    return EngineError("the engine returned NaN or infinity", hint="try a variant of fp32 or bf16")


def _blank(like: Patches) -> Patches:
    return Patches(np.zeros_like(like.pixels[:1]), (1, 1))
