"""The journal of a run: frames are recorded as packs finish, and become the output file at the end.

The journal is a folder beside the output. It survives a kill or a power cut, so that the next run continues where this
one stopped; memory holds a line a row, never the vectors.

    key.json      what decides the vectors; a run with another key does not continue it
    rows.jsonl    an object an image, with the checksums of its vector, its tokens and itself
    vectors.f32   the vectors, float32, in the order of the rows
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError, explain_os_errors
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import Lock
from naflex_deploy.runtime.results.key import Key
from naflex_deploy.runtime.results.table import Provenance, Row, Table
from naflex_deploy.runtime.results.vectors import VectorFile
from naflex_deploy.runtime.results.writers import find_format, write_output

FORMAT = 3
AGAIN = "run without --resume to start again"


@dataclass(frozen=True)
class Done:
    """What is recorded of an input.

    Attributes:
        frames: Numbers of the frames whose every image is recorded.
        all: Whether the input has no other frames.
    """

    frames: frozenset[int] = frozenset()
    all: bool = False


class Journal:
    """An append-only record of rows and their vectors.

    Args:
        lock: Of the output, held by this run.
        width: D, the length of a vector.
        key: What decides the vectors.
        tokens_of: The content of a file of tokens that an earlier run recorded; ``None`` where it cannot be read.

    Attributes:
        rows: What is recorded, by earlier runs too.
        dropped: Rows of an earlier run that are damaged, and are embedded again.

    Raises:
        UsageError: The suffix of the output names no format.
        MissingExtraError: Its format needs a package that is not installed.
    """

    def __init__(
        self, lock: Lock, width: int, key: Key, tokens_of: Callable[[str], bytes | None] = lambda name: None
    ) -> None:
        find_format(lock.path)
        self._lock = lock
        self._width = width
        self._key = key
        self._tokens_of = tokens_of
        self._folder = lock.path.with_name(f".{lock.path.name}.journal")
        self._lines = self._folder / "rows.jsonl"
        self._vectors = self._folder / "vectors.f32"
        self.rows: list[Row] = []
        self.dropped = 0

    @contextmanager
    def open(self, *, resume: bool) -> Iterator[Journal]:
        """Append to a new journal, or with ``resume`` to the one that an earlier run left.

        Raises:
            UsageError: The earlier run's key differs, or cannot be read; names what differs.
            OutputError: The journal cannot be written.
        """
        if not resume:
            self.remove()
        with explain_os_errors(self._lock.path):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_key()
            self.rows = self._recover()
            try:
                with (
                    self._lines.open("a", encoding="utf-8") as self._row_stream,
                    self._vectors.open("ab") as self._vector_stream,
                ):
                    yield self
            finally:
                if not self.rows:
                    self.remove()  # nothing to resume

    def append(self, row: Row, vector: npt.NDArray[np.float32], tokens: int = 0) -> None:
        """Record one image.

        Args:
            row: Of the image.
            vector: [D].
            tokens: Checksum of the content of its file of tokens.
        """
        content = vector.astype(np.float32).tobytes()
        self._vector_stream.write(content)
        self._vector_stream.flush()
        described = json.dumps(vars(row))
        checksums = [crc32(content), tokens, crc32(described.encode())]
        self._row_stream.write(f'{described[:-1]}, "checksums": {checksums}}}\n')
        self._row_stream.flush()
        self.rows.append(row)

    def done(self) -> dict[tuple[str, str], Done]:
        """What is recorded of each input, by its path and digest."""
        tiles: dict[tuple[str, str, int], set[int]] = {}
        ends: dict[tuple[str, str], int] = {}
        for row in self.rows:
            tiles.setdefault((row.path, row.digest, row.frame), set()).add(row.tile)
            if row.last:
                # A run that was resumed in the middle took another frame for the last one.
                ends[row.path, row.digest] = max(row.frame, ends.get((row.path, row.digest), 0))
        wanted = {(row.path, row.digest, row.frame): row.tiles for row in self.rows}
        frames: dict[tuple[str, str], set[int]] = {}
        for (path, digest, frame), found in tiles.items():
            if len(found) == wanted[path, digest, frame]:
                frames.setdefault((path, digest), set()).add(frame)
        return {
            key: Done(frozenset(numbers), key in ends and numbers >= set(range(ends[key] + 1)))
            for key, numbers in frames.items()
        }

    def finish(self, order: dict[tuple[str, str], int], provenance: Provenance) -> int:
        """Write the output, and remove the journal once the output is on disk.

        Args:
            order: Place of each input, by path and digest; rows of other inputs are left out.
            provenance: What made the vectors.

        Returns:
            Number of rows written.
        """
        latest: dict[tuple[int, int, int], int] = {}
        done = self.done()
        for index, row in enumerate(self.rows):
            key = (row.path, row.digest)
            if key in order and row.frame in done.get(key, Done()).frames:
                latest[order[key], row.frame, row.tile] = index
        chosen = [latest[place] for place in sorted(latest)]
        vectors = VectorFile(self._vectors, len(self.rows), self._width)
        write_output(self._lock, Table(self.rows, vectors, chosen, provenance))
        self.remove()
        return len(chosen)

    def remove(self) -> None:
        """Leave nothing to resume."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _check_key(self) -> None:
        file = self._folder / "key.json"
        if file.exists():
            differ = self._key.differences(self._read_key(file))
            if differ:
                raise UsageError(f"{self._folder} was begun with something else: {'; '.join(differ)}", hint=AGAIN)
        elif any(path.exists() for path in (self._lines, self._vectors, self._folder / "key")):
            raise UsageError(
                f"{self._folder} does not say what its vectors were made with: an earlier version wrote it, or its "
                "key is lost",
                hint=AGAIN,
            )
        else:
            for left in self._folder.iterdir():  # by a run that was killed before it had a key
                left.unlink()
            with new_file(file, self._lock) as partial:
                partial.write_text(json.dumps({"format": FORMAT, "key": self._key.parts}), encoding="utf-8")

    @staticmethod
    def _read_key(file: Path) -> dict[str, object]:
        try:
            content = json.loads(file.read_bytes())
            if content["format"] != FORMAT:
                raise UsageError(
                    f"{file}: expected a journal of format {FORMAT}, found {content['format']}", hint=AGAIN
                )
            return dict(content["key"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} is damaged: {type(error).__name__}", hint=AGAIN) from None

    def _recover(self) -> list[Row]:
        """The sound rows that an earlier run left; whatever follows the first damaged one is cut off."""
        if not self._lines.exists():
            self._vectors.unlink(missing_ok=True)
            return []
        rows: list[Row] = []
        kept = 0
        lines = self._lines.read_bytes().splitlines(keepends=True)
        with self._vectors.open("a+b") as vectors:
            vectors.seek(0)
            for line in lines:
                row = self._sound(line, vectors.read(4 * self._width))
                if row is None:
                    break
                rows.append(row)
                kept += len(line)
        self.dropped = sum(line.endswith(b"\n") for line in lines[len(rows) :])
        _truncate(self._lines, kept)
        _truncate(self._vectors, 4 * self._width * len(rows))
        return rows

    def _sound(self, line: bytes, vector: bytes) -> Row | None:
        """The row of a line that is whole, and has its checksum, as its vector and tokens have theirs."""
        if not line.endswith(b"\n"):
            return None
        try:
            values = json.loads(line)
            of_vector, of_tokens, of_row = values.pop("checksums")
            if crc32(json.dumps(values).encode()) != of_row:
                return None
            row = Row.parse(values)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if len(vector) != 4 * self._width or crc32(vector) != of_vector:
            return None
        if row.tokens:
            tokens = self._tokens_of(row.tokens)
            if tokens is None or crc32(tokens) != of_tokens:
                return None
        return row


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(size)
