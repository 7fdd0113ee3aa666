"""The file of API keys that a server accepts, of which a client sends the first."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import read_text


def read_keys(path: Path) -> list[str]:
    """Read one key per line. Blank lines are skipped.

    Raises:
        UsageError: The file cannot be read, or holds no key.
    """
    lines = read_text(path, hint="give a file with one key per line").splitlines()
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise UsageError(f"{path}: expected keys, found none", hint="write one key per line")
    return keys
