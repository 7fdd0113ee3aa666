"""Embedding many files into one: results go to a journal as packs finish, and to their final file at the end.

The journal is a directory beside the output. It survives a kill, so that the next run goes on where this one
stopped; memory holds a line a row, never the vectors. The final file appears when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import UsageError, explain_os_errors
from naflex_deploy.core.files import new_file
from naflex_deploy.runtime.results.table import Provenance, Row, Table
from naflex_deploy.runtime.results.writers import writer


@dataclass(frozen=True)
class Done:
    """What of an input is recorded.

    Attributes:
        frames: Numbers of those of which every image is.
        all: Whether these are all.
    """

    frames: frozenset[int] = frozenset()
    all: bool = False


class Journal:
    """An append-only record of rows and their vectors.

    Args:
        output: The final file.
        width: D, length of a vector.
        provenance: What made the vectors.
        key: What else is written beside them; a journal of another provenance or key is not resumed.

    Raises:
        UsageError: The suffix of the output names no format.
        MissingExtraError: Its format needs a package that is not installed.
    """

    def __init__(self, output: Path, width: int, provenance: Provenance, key: str = "") -> None:
        self._write = writer(output)
        self._output = output
        self._width = width
        self._provenance = provenance
        self._key = f"{json.dumps(asdict(provenance))} {key}"
        self._folder = output.with_name(f".{output.name}.journal")
        self.rows: list[Row] = []

    @contextmanager
    def open(self, *, resume: bool) -> Iterator[Journal]:
        """Append to the journal; a new one, or with ``resume`` the one that an earlier run left.

        Raises:
            UsageError: The earlier run used another bundle.
            OutputError: The journal cannot be written.
        """
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        with explain_os_errors(self._output):
            self._folder.mkdir(parents=True, exist_ok=True)
            self.rows = self._recover()
            with (
                self._lines.open("a", encoding="utf-8") as self._row_stream,
                self._vectors.open("ab") as self._vector_stream,
            ):
                yield self

    def append(self, row: Row, vector: npt.NDArray[np.float32]) -> None:
        """Record one image. The vector first: a line vouches for the vector before it."""
        self._vector_stream.write(vector.astype(np.float32).tobytes())
        self._vector_stream.flush()
        self._row_stream.write(json.dumps(asdict(row)) + "\n")
        self._row_stream.flush()
        self.rows.append(row)

    def done(self) -> dict[tuple[str, str], Done]:
        """What of each input, by path and digest, is recorded."""
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

    def finish(self, order: dict[tuple[str, str], int]) -> int:
        """Write the final file and remove the journal.

        Args:
            order: Place of each input, by path and digest; rows of others are left out.

        Returns:
            Rows written.
        """
        latest: dict[tuple[int, int, int], int] = {}
        done = self.done()
        for index, row in enumerate(self.rows):
            key = (row.path, row.digest)
            if key in order and row.frame in done.get(key, Done()).frames:
                latest[order[key], row.frame, row.tile] = index
        chosen = [latest[place] for place in sorted(latest)]
        with new_file(self._output) as partial:
            self._write(partial, Table(self.rows, self._read_vectors(), chosen, self._provenance))
        shutil.rmtree(self._folder, ignore_errors=True)
        return len(chosen)

    @property
    def _lines(self) -> Path:
        return self._folder / "rows.jsonl"

    @property
    def _vectors(self) -> Path:
        return self._folder / "vectors.f32"

    def _recover(self) -> list[Row]:
        """Rows that an earlier run left; a torn end is cut off both files."""
        header = self._folder / "key"
        if not header.exists():
            header.write_text(self._key, encoding="utf-8")
        elif header.read_text(encoding="utf-8") != self._key:
            raise UsageError(
                f"{self._folder} was begun with another bundle, variant or setting",
                hint="run without --resume to begin anew",
            )
        if not self._lines.exists():
            return []
        rows: list[Row] = []
        kept = 0
        available = self._vectors.stat().st_size // (4 * self._width)
        for line in self._lines.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or len(rows) == available:
                break
            rows.append(Row.parse(line))
            kept += len(line)
        _truncate(self._lines, kept)
        _truncate(self._vectors, 4 * self._width * len(rows))
        return rows

    def _read_vectors(self) -> npt.NDArray[np.float32]:
        if not self.rows:
            return np.zeros((0, self._width), np.float32)
        return np.memmap(self._vectors, np.float32, "r", shape=(len(self.rows), self._width))


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(size)
