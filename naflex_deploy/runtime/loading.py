"""Load an engine from a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

from naflex_deploy.core.config import adjust
from naflex_deploy.core.errors import BundleError, NaflexError
from naflex_deploy.core.files import identity
from naflex_deploy.core.locks import standing
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.signature import verify_signature
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.hub.pull import cached
from naflex_deploy.runtime.hub.repository import PREFIX, Repository
from naflex_deploy.runtime.text_encoder import TextEncoder

ATTEMPTS = 20
"""Times that a bundle is loaded, where another process replaces it each time."""


def load(
    bundle: str | PathLike[str],
    variant: str | None = None,
    settings: str | Sequence[str] = (),
    public_key: Path | None = None,
) -> Engine:
    """`load_engine` of a directory, or of ``hf:ORG/NAME[@REVISION]``; see `naflex_deploy.load`."""
    if isinstance(bundle, str) and bundle.startswith(PREFIX):
        path = cached(Repository.parse(bundle), variant, public_key)
    else:
        path = Path(bundle)
        if public_key:
            verify_signature(path, public_key)
    return load_engine(path, variant, settings=settings)


def load_engine(
    path: Path,
    variant: str | None = None,
    session: Callable[[Path, Variant], Session] = open_session,
    settings: str | Sequence[str] = (),
) -> Engine:
    """Open a bundle, choose a variant, check its files and load its engine, in this order.

    A bundle that is replaced meanwhile is loaded again, so that an engine is never of two bundles.

    Args:
        path: Directory of the bundle.
        variant: Name of a variant. Default: the first one that this machine can run.
        session: Opens the engine; a server may pass its own function.
        settings: How inputs are read; see `adjust`.
    """
    for _ in range(ATTEMPTS):
        stands = standing(path)
        before = identity(stands)
        try:
            engine = _open_engine(Bundle.open(stands), variant, session, settings)
        except NaflexError:
            if identity(standing(path)) == before:
                raise
        else:
            if identity(standing(path)) == before:
                return engine
    raise BundleError(f"{path} was replaced {ATTEMPTS} times while it was loaded", hint="load it again")


def _open_engine(
    bundle: Bundle, variant: str | None, session: Callable[[Path, Variant], Session], settings: str | Sequence[str]
) -> Engine:
    manifest = bundle.manifest.model_copy(update={"config": adjust(bundle.manifest.config, settings)})
    chosen = bundle.choose(variant)
    files = bundle.files_of(chosen)
    bundle.check(files)
    try:
        opened = session(bundle.path, chosen)
    except NaflexError:
        bundle.refuse_changed(files)  # which tells more than what a library says of a file that was cut
        raise
    bundle.refuse_changed(files)
    why = bundle.why(chosen) if variant is None else "it was asked for by name"
    return Engine(opened, manifest, chosen, partial(TextEncoder, bundle), why)
