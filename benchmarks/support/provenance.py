"""What a figure was measured with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(*distributions: str) -> dict[str, str]:
    """Versions of those that are installed, by name."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
