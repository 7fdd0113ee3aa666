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


@dataclass(frozen=True)
class Format:
    """How one kind of file is written.

    Attributes:
        write: Writes a table to a path.
        module: What it imports beyond the package's own dependencies; empty where that is nothing.
        extra: The extra that brings the module.
    """

    write: Write
    module: str = ""
    extra: str = ""


FORMATS = {
    ".npz": Format(npz.write),
    ".jsonl": Format(jsonl.write),
    ".parquet": Format(parquet.write, "pyarrow.parquet", "parquet"),
}


def writer(path: Path) -> Write:
    """The function that writes the format named by a file's suffix.

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
    return found.write
