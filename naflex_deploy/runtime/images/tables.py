"""Parquet tables of images: encoded in columns of bytes, or named by paths, as the datasets library writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from naflex_deploy.core.errors import ImageError, MissingExtraError, nearest
from naflex_deploy.core.profile import LimitsSection
from naflex_deploy.core.worker import WorkerError, stream
from naflex_deploy.runtime.images.shards import too_large
from naflex_deploy.runtime.images.source import out_of_memory

Cell = bytes | Path | tuple[bytes | Path, ...]
"""An image, or several that are frames of one input."""

Row = tuple[str, Cell | ImageError | MissingExtraError]
"""Name and content of a row, or why there is none."""

ROWS = 64
"""Of a table that are read at once."""

COLUMN = "::"
"""Between the path of a table and the name of its column, as in ``table.parquet::left``."""


def split_column(path: Path) -> tuple[Path, str | None]:
    """The path of a table, and the column that is named after it, where one is."""
    table, mark, column = str(path).rpartition(COLUMN)
    return (Path(table), column) if mark and column else (path, None)


def read_guarded(path: Path, column: str | None, limits: LimitsSection) -> Iterator[Row]:
    """Like `read_parquet`, in another process: Arrow inflates whole pages, which may be of any size.

    Args:
        path: Of the table.
        column: Its column, if one is named.
        limits: Of the profile: the memory of the process, the time for a row, the size of a cell.
    """
    arguments = path, column, limits.member
    try:
        yield from stream(read_parquet, *arguments, seconds=limits.seconds, memory=limits.memory)
    except TimeoutError:
        hint = "write it in smaller row groups, or raise limits.seconds in the profile"
        yield str(path), ImageError(f"{path}: reading a row took more than {limits.seconds:g} s", hint=hint)
    except WorkerError as error:
        hint = "write it in smaller row groups, or raise limits.memory in the profile"
        yield str(path), ImageError(f"{path}: while reading it, {error}", hint=hint)


def read_parquet(path: Path, column: str | None = None, most: int = LimitsSection().member) -> Iterator[Row]:
    """The images of a Parquet table, under ``TABLE#ROW``.

    A cell is an encoded image, or a structure of ``bytes`` and ``path``, or a list of either, whose images are the
    frames of one input. A path without bytes is relative to the table.

    Args:
        path: Of the table.
        column: Its column; where none is named, the only one of images, or that named ``image``.
        most: Largest size of a row in bytes.
    """
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        yield str(path), MissingExtraError(error.name or "pyarrow", "parquet")
        return
    try:
        with parquet.ParquetFile(path) as table:
            chosen = _image_column(table.schema_arrow, path, column)
            row = 0
            for batch in table.iter_batches(ROWS, columns=[chosen]):
                for part in range(len(batch)):
                    name = f"{path}#{row}"
                    cell = batch.column(0).slice(part, 1)
                    if cell.nbytes > most:
                        yield name, too_large(name, cell.nbytes, most)
                    else:
                        yield name, _cell(cell.to_pylist()[0], path.parent, name)
                    row += 1
    except ImageError as error:
        yield str(path), error
    except MemoryError:
        yield str(path), out_of_memory(str(path))
    except Exception as error:  # Arrow raises many kinds, UnicodeDecodeError among them
        reason = " ".join(str(error).split())
        yield str(path), ImageError(f"{path}: damaged Parquet table: {reason}", hint="replace the file")


def _cell(value: Any, folder: Path, name: str) -> Cell | ImageError:
    if isinstance(value, list):
        images = [_image(item, folder) for item in value]
        known = tuple(image for image in images if image is not None)
        if known and len(known) == len(images):
            return known
        return ImageError(f"{name}: expected images, found {len(images) - len(known)} missing", hint="drop the row")
    image = _image(value, folder)
    return image or ImageError(f"{name}: expected an image, found none", hint="drop the row")


def _image(value: Any, folder: Path) -> bytes | Path | None:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return folder / value if value else None
    return value or None


def _image_column(schema: Any, path: Path, column: str | None) -> str:
    """The column of images: structures before plain bytes, as these may be anything."""
    if column is not None:
        if column in schema.names:
            return column
        raise ImageError(f"{path}: has no column '{column}'", hint=nearest(column, schema.names))
    structures = [field.name for field in schema if _is_structure(field.type)]
    columns = structures or [field.name for field in schema if _is_bytes(_element(field.type))]
    if not columns:
        columns = [field.name for field in schema if field.name == "image" and _is_text(_element(field.type))]
    if len(columns) == 1:
        return str(columns[0])
    if "image" in columns:
        return "image"
    raise ImageError(
        f"{path}: expected a column of image bytes, found {', '.join(columns) or 'none'} of {', '.join(schema.names)}",
        hint=f"name it after the table: {path.name}{COLUMN}{columns[0] if columns else 'COLUMN'}",
    )


def _element(kind: Any) -> Any:
    """The type of values in lists and dictionaries."""
    from pyarrow import types

    while types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def _is_structure(kind: Any) -> bool:
    from pyarrow import types

    kind = _element(kind)
    return bool(types.is_struct(kind)) and any(part.name == "bytes" and _is_bytes(part.type) for part in kind)


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
