"""Search an output of ``embed`` for the rows that are nearest to a vector.

Every vector is compared, some at a time, so that the result is exact and memory does not grow with the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from naflex_deploy.core.errors import IncompatibleError, NaflexError, UsageError
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.core.progress import Counts, OnProgress, unseen
from naflex_deploy.runtime.results.embeddings import Float, unit
from naflex_deploy.runtime.results.part import Part
from naflex_deploy.runtime.results.writers import find_format

_DAMAGED = (AttributeError, BadZipFile, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What the libraries of the formats raise; their own errors are of these classes."""

_HINT = "give an output of `naflex-deploy embed -o`"


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        cosine: Cosine of the angle between its vector and that of the query.
        row: Its columns by name.
    """

    cosine: float
    row: Mapping[str, Any]


def search(index: Path, query: Float, model: str, top: int = 5, on_progress: OnProgress = unseen) -> list[Hit]:
    """The rows nearest to a vector, best first; of equal ones, the first in the output.

    Args:
        index: An output of ``embed``, in any of its formats.
        query: [D] float32.
        model: Digest of the weights that made it.
        top: Maximum number of rows.
        on_progress: Called with the number of rows compared; how many there are is known at the end only.

    Raises:
        UsageError: There is no such file, or it is no output of ``embed``.
        MissingExtraError: Its format needs a package that is not installed.
        IncompatibleError: Another model made its vectors.
    """
    query = unit(query)
    best: list[Hit] = []
    rows = 0
    for part in parts(index):
        if not len(part.vectors):
            continue
        _refuse_other(index, part.row(0), model)
        if part.vectors.shape[1:] != query.shape:
            what = f"expected vectors of {len(query)}, found {part.vectors.shape[1]}"
            raise IncompatibleError(f"{index}: {what}", hint="embed again with the bundle that is searched with")
        scores = unit(part.vectors) @ query
        nearest = np.argsort(-scores, kind="stable")[:top]
        best += [Hit(float(scores[number]), part.row(int(number))) for number in nearest]
        best = sorted(best, key=lambda hit: -hit.cosine)[:top]
        rows += len(part.vectors)
        on_progress(Counts(rows))
    for hit in best:
        _refuse_other(index, hit.row, model)
    return best


def model_of(index: Path) -> str:
    """Digest of the weights that made an output; empty where it has no rows.

    Raises:
        UsageError, MissingExtraError: See `search`.
    """
    for part in parts(index):
        if len(part.vectors):
            return str(part.row(0)["model"])
    return ""


def parts(index: Path) -> Iterator[Part]:
    """The rows of an output.

    Raises:
        UsageError, MissingExtraError: See `search`.
    """
    if not index.exists():
        raise UsageError(f"there is no index at {index}", hint=_HINT)
    form = find_format(index)
    try:
        for part in form.read(index):
            if len(part.vectors) and "model" not in part.row(0):
                raise KeyError("model")
            yield part
    except NaflexError:
        raise
    except _DAMAGED as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{index} cannot be read as an index: {reason}", hint=_HINT) from None


def bundle_of(model: str, folders: Iterable[Path]) -> Path:
    """The bundle in one of these folders that has these weights and a text tower; the latest, where there are several.

    Raises:
        UsageError: There is none.
    """
    found: list[Path] = []
    looked = list(dict.fromkeys(folder.resolve() for folder in folders))
    for manifest in (path for folder in looked if folder.is_dir() for path in folder.glob(f"*/{FILE_NAME}")):
        try:
            opened = Manifest.read(manifest.parent)
        except NaflexError:
            continue
        if opened.model.digest == model and opened.text is not None:
            found.append(manifest.parent)
    if found:
        return max(found, key=lambda path: ((path / FILE_NAME).stat().st_mtime_ns, path))
    places = " and ".join(map(str, looked))
    raise UsageError(
        f"in {places} there is no bundle with a text tower and the weights {model[:12]} of the index",
        hint="name the bundle with --bundle; build it with --text",
    )


def _refuse_other(index: Path, row: Mapping[str, Any], model: str) -> None:
    found = str(row["model"])
    if found != model:
        raise IncompatibleError(
            f"{index} holds vectors of another model: expected the weights {model[:12]}, found {found[:12]}",
            hint="search with the bundle that made it, or embed again",
        )
