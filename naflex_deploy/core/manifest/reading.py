"""Read ``manifest.json`` within bounds, and seal it with a digest of itself."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from naflex_deploy.core.errors import BundleError

MOST_BYTES = 64 * 2**20
"""Bytes of a manifest: a thousand times as many as usual, enough for a million labels."""
DIGEST = "digest"


def read_content(path: Path) -> Any:
    """The JSON of a manifest, in which no key stands twice and no number is infinite.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no such file.
        BundleError: It is no regular file, too large, or not such JSON.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("expected a regular file")
        if found.st_size > MOST_BYTES:
            raise ValueError(f"expected at most {MOST_BYTES} bytes, found {found.st_size}")
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is unreadable: {error}", hint="copy or build the bundle again") from None


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own digest, whatever its white space and the order of its keys.

    Raises:
        ValueError: A text cannot be written as UTF-8.
    """
    rest = {key: value for key, value in content.items() if key != DIGEST}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest with its digest."""
    return {**content, DIGEST: digest_of(content)}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:80]!r} stands twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
