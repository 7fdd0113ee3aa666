"""The formats of an output file, by its suffix. A new format is a module of this folder and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.runtime.results.table import Table
from naflex_deploy.runtime.results.writers import jsonl, npz, parquet

Write = Callable[[Path, Table], None]
ReadKey = Callable[[Path], str]


@dataclass(frozen=True)
class Format:
    """How one kind of file is written.

    Attributes:
        write: Writes a table to a path.
        read_key: Reads the key of its provenance back from a file; empty where the file has none.
        module: What it imports beyond the package's own dependencies; empty where that is nothing.
        extra: The extra that brings the module.
    """

    write: Write
    read_key: ReadKey
    module: str = ""
    extra: str = ""


FORMATS = {
    ".npz": Format(npz.write, npz.read_key),
    ".jsonl": Format(jsonl.write, jsonl.read_key),
    ".parquet": Format(parquet.write, parquet.read_key, "pyarrow.parquet", "parquet"),
}


def find_format(path: Path) -> Format:
    """The format named by a file's suffix.

    Raises:
        UsageError: The suffix names no format.
        MissingExtraError: The format needs a package that is not installed.
    """
    found = FORMATS.get(path.suffix)
    if found is None:
        *others, last = FORMATS
        raise UsageError(
            f"-o {path}: expected a name that ends in {', '.join(others)} or {last}", hint="for example out.npz"
        )
    if found.module:
        with needs_extra(found.extra):
            import_module(found.module)
    return found
