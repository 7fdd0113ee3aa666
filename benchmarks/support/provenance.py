"""Records the versions with which a figure was measured."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(*distributions: str) -> dict[str, str]:
    """Versions of those distributions that are installed, by name."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
