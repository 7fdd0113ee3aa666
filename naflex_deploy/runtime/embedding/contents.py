"""Inputs read once, so that the digest of a row is that of the bytes that were decoded.

A file of ordinary size is read into memory, where its digest is taken and its pixels are decoded. A larger one is read
twice, and stays what it was: its identity on disk is compared before its digest is taken and after each of its frames.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.files import Identity, identity, sha256
from naflex_deploy.runtime.images.inputs import Input

IN_MEMORY = 16 * 2**20
"""Bytes of the largest file that is read into memory: a few are, while their predecessors are decoded."""


@dataclass(frozen=True)
class Content:
    """An input whose content is fixed.

    Attributes:
        input: To be decoded.
        digest: sha256 of what is decoded; empty where it cannot be read, which decoding it explains.
        identity: Of the file, where it is too large to be held in memory.
    """

    input: Input
    digest: str
    identity: Identity | None = None

    def forget(self) -> Content:
        """The same without what is held in memory, for when it is being decoded."""
        return self if self.identity is not None else replace(self, input=replace(self.input, source=b""))

    def check(self) -> None:
        """Refuse a file that was replaced or changed since its digest was taken.

        Raises:
            ImageError: It was.
        """
        source = self.input.source
        if self.identity is not None and isinstance(source, Path) and identity(source) != self.identity:
            raise ImageError(
                f"{self.input.name} was changed while it was read", hint="embed it again once it is written completely"
            )


def read_once(item: Input) -> Content:
    """Take the digest of an input, and hold on to what it was taken of."""
    source = item.source
    if isinstance(source, bytes):
        return Content(item, hashlib.sha256(source).hexdigest())
    if not isinstance(source, Path) or source.is_dir():
        return Content(item, item.digest())
    try:
        if not source.is_file():
            return Content(item, "")
        before = identity(source)
        if before is not None and before[2] > IN_MEMORY:
            return Content(item, sha256(source), before)
        content = source.read_bytes()
    except OSError:
        return Content(item, "")
    return Content(Input(item.name, content), hashlib.sha256(content).hexdigest())
