"""The formats of an output, by its suffix. A new format is a module of this folder and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.core.files import new_directory, new_file
from naflex_deploy.core.locks import Lock
from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.table import Table
from naflex_deploy.runtime.results.writers import faiss, jsonl, lance, npz, parquet

Write = Callable[[Path, Table], None]
ReadKey = Callable[[Path], str]
Read = Callable[[Path], Iterator[Part]]


@dataclass(frozen=True)
class Format:
    """How one kind of output is written.

    Attributes:
        write: Writes a table to a path.
        read_key: Reads the key of its provenance back from an output; empty where it has none.
        read: Reads rows and vectors back, in the order of the output.
        modules: What it imports beyond the package's own dependencies.
        extra: The extra that brings the modules.
        made: Pattern of what lies in its directory; ``None`` where it is a file. See `refuse_existing`.
        beside: Suffix of a file beside the output, and what writes it.
    """

    write: Write
    read_key: ReadKey
    read: Read
    modules: tuple[str, ...] = ()
    extra: str = ""
    made: str | None = None
    beside: tuple[str, Write] | None = None


FORMATS = {
    ".npz": Format(npz.write, npz.read_key, npz.read),
    ".jsonl": Format(jsonl.write, jsonl.read_key, jsonl.read),
    ".parquet": Format(parquet.write, parquet.read_key, parquet.read, ("pyarrow.parquet",), "parquet"),
    ".parts": Format(
        parquet.write_parts,
        parquet.read_key_of_parts,
        parquet.read_parts,
        ("pyarrow.parquet",),
        "parquet",
        made=parquet.PARTS,
    ),
    ".lance": Format(lance.write, lance.read_key, lance.read, ("pyarrow", "lance"), "lance", made=lance.VERSIONS),
    ".faiss": Format(
        faiss.write, faiss.read_key, faiss.read, ("faiss",), "faiss", beside=(faiss.BESIDE, faiss.write_rows)
    ),
}


def find_format(path: Path) -> Format:
    """The format named by the suffix of an output.

    Raises:
        UsageError: The suffix names no format.
        MissingExtraError: The format needs a package that is not installed.
    """
    found = FORMATS.get(path.suffix)
    if found is None:
        *others, last = FORMATS
        raise UsageError(
            f"{path}: expected a name that ends in {', '.join(others)} or {last}", hint="for example out.npz"
        )
    with needs_extra(found.extra):
        for module in found.modules:
            import_module(module)
    return found


def paths_of(output: Path) -> list[Path]:
    """The output, and the file beside it where its format has one."""
    beside = find_format(output).beside
    return [output, *([output.with_name(output.name + beside[0])] if beside else [])]


def write_output(lock: Lock, table: Table) -> None:
    """Write a table where a lock is held, replacing what is there; it appears whole or not at all.

    Raises:
        UsageError: The suffix names no format.
        MissingExtraError: The format needs a package that is not installed.
        OutputError: It cannot be written.
    """
    path = lock.path
    form = find_format(path)
    if form.beside is not None:  # first, so that an index never lacks its rows
        suffix, write = form.beside
        with new_file(path.with_name(path.name + suffix)) as partial:
            write(partial, table)
    made = form.made
    with new_file(path, lock) if made is None else new_directory(path, lock, force=True, made=made) as partial:
        form.write(partial, table)
