"""The tokens of a run: a file a frame, which is written before the journal records the frame."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np

from naflex_deploy.core.errors import explain_os_errors
from naflex_deploy.core.files import new_file, sync
from naflex_deploy.core.locks import Lock
from naflex_deploy.runtime.results.key import Key
from naflex_deploy.runtime.results.result import Result


class Tokens:
    """Files of tokens in a folder.

    Args:
        folder: Where they go; ``None`` writes none.
        lock: Of the folder.
        key: What decides the tokens; part of the files' names, so that no other run replaces what an output names.
    """

    def __init__(self, folder: Path | None, lock: Lock | None, key: Key) -> None:
        self._folder = folder
        self._tag = hashlib.sha256(json.dumps(key.digests()).encode()).hexdigest()[:8]
        self._lock = lock
        self._written: list[Path] = []

    def __bool__(self) -> bool:
        """Whether files are written."""
        return self._folder is not None

    def write(self, frame: Result, digest: str) -> tuple[str, int]:
        """Write the tokens of a frame as [h, w, D] ``.npy``.

        Returns:
            Name of the file, and the checksum of its content; empty and 0 where none is written.

        Raises:
            OutputError: It cannot be written.
        """
        if self._folder is None:
            return "", 0
        content = BytesIO()
        np.save(content, frame.outputs["tokens"])
        path = self._folder / f"{digest[:16]}-{frame.frame:05}-{self._tag}.npy"
        with new_file(path, self._lock, synced=False) as partial:
            partial.write_bytes(content.getbuffer())
        self._written.append(path)
        return path.name, crc32(content.getbuffer())

    def read(self, name: str) -> bytes | None:
        """The content of a file; ``None`` where it cannot be read."""
        try:
            return (self._folder / name).read_bytes() if self._folder is not None else None
        except OSError:
            return None

    def sync(self) -> None:
        """Have the system put the files that were written on disk, before an output names them.

        Raises:
            OutputError: It could not.
        """
        if self._folder is not None:
            with explain_os_errors(self._folder):
                for path in self._written:
                    sync(path)
                sync(self._folder)
