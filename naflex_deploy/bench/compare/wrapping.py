"""Wraps a session, and also the worker sessions that run its packs side by side."""

from __future__ import annotations

from collections.abc import Callable

from naflex_deploy.runtime.backends.session import Session, SideBySide

Wrap = Callable[[Session], Session]


def wrapped(session: Session, wrap: Wrap) -> Session:
    """Wrap a session, and its worker too if the session runs several packs at once."""
    return _Wrapped(session, wrap) if isinstance(session, SideBySide) else wrap(session)


class _Wrapped:
    def __init__(self, session: SideBySide, wrap: Wrap) -> None:
        self._session, self._wrap = session, wrap
        self.run = wrap(session).run

    @property
    def workers(self) -> int:
        return self._session.workers

    @property
    def worker_is_loaded(self) -> bool:
        return self._session.worker_is_loaded

    def worker(self) -> Session:
        return self._wrap(self._session.worker())
