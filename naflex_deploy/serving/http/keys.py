"""Check API keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping

from starlette.types import Scope


class Keys:
    """The accepted API keys, kept as digests. Without any, no key is required."""

    def __init__(self, keys: Collection[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request has an accepted key: ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``."""
        digest = hashlib.sha256(_given(headers)).digest()
        return any(hmac.compare_digest(digest, known) for known in self._digests)

    def client(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """Who sends an accepted request: the owner of its key, or its address where no key is required."""
        if self:
            return hashlib.sha256(_given(headers)).hexdigest()
        address = scope.get("client")
        return address[0] if address else ""


def _given(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    return bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
