"""Run a pack so that an error of one image does not affect the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.pack import Pack, Patches, in_blocks, on_grid
from naflex_deploy.runtime.backends.session import Outputs, Session

Results = dict[str, npt.NDArray[np.float32]]


class EngineError(NaflexError):
    """The engine failed on one image or on every image, or returned NaN or infinity for an image."""


def run_isolated(
    session: Session, pack: Pack, images: Sequence[Patches], outputs: Sequence[str]
) -> list[Results | EngineError]:
    """Run a pack. Where it fails or a result is not finite, run each of its images alone.

    Attention masks do not stop NaN, because 0·NaN is NaN; when images run alone, only the culprit gives NaN. A failed
    run is tried once more, because the engine may recover: from a killed worker, or from a lack of memory.

    Args:
        session: Runs packs.
        pack: The images, without a tail.
        images: [M] images of the pack, for the second run.
        outputs: Names of the outputs to compute.

    Returns:
        [M] results: per-image outputs [...] and per-token outputs [h, w, D], or of blocks of s×s tokens
        [h/s, w/s, D], in float32, or the error of the image.

    Raises:
        EngineError: The engine also fails on a blank image, so these images are not the cause.
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
            hint = "run `naflex-deploy verify BUNDLE` to test the engine"
            raise EngineError(f"the engine failed: {reason}", hint=hint) from error


def _run(session: Session, pack: Pack, outputs: Sequence[str]) -> list[Results]:
    found = session.run(pack, outputs)
    parts = {name: _split(name, found, pack) for name in outputs}
    return [{name: part[index] for name, part in parts.items()} for index in range(pack.images)]


def _split(name: str, found: Outputs, pack: Pack) -> list[npt.NDArray[np.float32]]:
    if name not in found:
        raise ValueError(f"expected an output '{name}', found {sorted(found)}")
    values = found[name]
    rows = pack.tokens if on_grid(name) else pack.images
    if len(values) != rows and not in_blocks(name):
        raise ValueError(f"expected {rows} rows of '{name}', found {len(values)}")
    # Copies: a kept result must not keep the whole pack alive, and the session may reuse its memory.
    return [part.astype(np.float32) for part in (pack.split(values) if on_grid(name) else values)]


def _finite(result: Results) -> bool:
    return all(bool(np.isfinite(values).all()) for values in result.values())


def _not_finite() -> EngineError:
    return EngineError("the engine returned NaN or infinity", hint="try a variant in fp32 or bf16")


def _blank(like: Patches) -> Patches:
    # Of two rows and columns, so that it divides into blocks.
    return Patches(np.zeros((4, like.pixels.shape[1]), like.pixels.dtype), (2, 2))
