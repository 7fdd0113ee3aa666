"""Files that hold many images: tar shards and Parquet tables, read from front to back."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from naflex_deploy.core.errors import ImageError, MissingExtraError

Entry = tuple[str, bytes | ImageError | MissingExtraError]
"""Name and content of an image, or why there is none."""

ROWS = 64
"""Of a table that are read at once."""


def read_tar(path: Path, suffixes: frozenset[str]) -> Iterator[Entry]:
    """The files of a tar archive, compressed or not, whose suffix is among ``suffixes``, under ``ARCHIVE/MEMBER``."""
    empty = True
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in suffixes:
                    empty = False
                    content = archive.extractfile(member)
                    yield f"{path}/{member.name}", content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        yield str(path), ImageError(f"{path}: damaged or truncated tar archive: {reason}", hint="replace the file")
        return
    if empty:
        yield str(path), ImageError(f"{path}: expected images, found a tar archive without any", hint="leave it out")


def read_parquet(path: Path) -> Iterator[Entry]:
    """The images of a Parquet table, under ``TABLE#ROW``.

    They are encoded images in a column of bytes, or of structures with a field ``bytes`` as the datasets library
    writes them; of several such columns, in that named ``image``.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        yield str(path), MissingExtraError(error.name or "pyarrow", "parquet")
        return
    try:
        with parquet.ParquetFile(path) as table:
            column = _image_column(table.schema_arrow, path)
            row = 0
            for batch in table.iter_batches(ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    content = value["bytes"] if isinstance(value, dict) else value
                    name = f"{path}#{row}"
                    yield name, content or ImageError(f"{name}: expected an image, found none", hint="drop the row")
                    row += 1
    except ImageError as error:
        yield str(path), error
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        yield str(path), ImageError(f"{path}: damaged Parquet table: {reason}", hint="replace the file")


def _image_column(schema: Any, path: Path) -> str:
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    columns = [
        field.name
        for field in schema
        if is_bytes(field.type)
        or (types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type))
    ]
    if len(columns) == 1:
        return str(columns[0])
    if "image" in columns:
        return "image"
    raise ImageError(
        f"{path}: expected a column of image bytes, found {', '.join(columns) or 'none'} of {', '.join(schema.names)}",
        hint="name the column of images 'image'",
    )
