"""Values of a manifest that have a form of their own: paths, names, digests, sizes, shapes.

A manifest may come from anywhere, so each value is bounded here, before anything is opened or allocated for it.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StrictInt, StrictStr

from naflex_deploy.core.profile.values import ascending, matching

MOST_TOKENS = 2**22
"""Tokens of a pack: 64 times as many as the largest budget of any profile that comes with the tool."""
GRAPH = ".onnx"
"""Ends the name of every ONNX graph, so that what a graph reads can be checked."""
LONGEST_PATH = 1024
LONGEST_NAME = 255
"""Bytes that file systems allow in one component of a path."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}"
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_+*/() -]{0,63}")
_OUTPUT = r"[a-z][a-z0-9_]*(:-?[a-z0-9]+)*"


def _inside(path: str) -> str:
    """A path that cannot lead out of the bundle, on any system, and that every system can write."""
    parts = path.split("/")
    wrong = not path.isprintable() or "\\" in path or ":" in path or len(path.encode()) > LONGEST_PATH
    if wrong or any(part in ("", ".", "..") or len(part.encode()) > LONGEST_NAME for part in parts):
        raise ValueError(f"expected a path inside the bundle such as 'variants/NAME/model.onnx', found {path[:80]!r}")
    return path


def _dimension(value: int | str) -> int | str:
    if isinstance(value, str):
        if not _SYMBOL.fullmatch(value):
            raise ValueError(f"expected a symbol such as 'tokens' or 'images+1', found {value[:80]!r}")
    elif not 0 < value < 2**31:
        raise ValueError(f"expected a positive size below 2**31, found {value!r}")
    return value


def graph(path: str) -> str:
    """A path as it came. Raises a `ValueError` where it is not named as a graph."""
    if not path.endswith(GRAPH):
        raise ValueError(f"expected the name of a graph, which ends in {GRAPH}, found '{path}'")
    return path


def unique(kind: str, names: list[str]) -> None:
    """Refuse a name that stands twice.

    Raises:
        ValueError: One does; it is named, with its kind.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {kind} are named {name[:80]!r}")


BundlePath = Annotated[str, AfterValidator(_inside)]
GraphPath = Annotated[BundlePath, AfterValidator(graph)]
VariantName = Annotated[str, matching(_NAME, "letters, digits, '.', '_', '+' and '-'", quoting=True)]
OutputName = Annotated[str, matching(_OUTPUT, "the name of an output such as 'pooled' or 'tokens:-2'", quoting=True)]
Digest = Annotated[str, matching(r"[0-9a-f]{64}", "a SHA-256 digest in 64 hexadecimal digits", quoting=True)]
Dimension = Annotated[StrictInt | StrictStr, AfterValidator(_dimension)]
Shape = Annotated[list[Dimension], Field(min_length=1, max_length=8)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
VariantBudgets = Annotated[list[Tokens], Field(min_length=1), AfterValidator(ascending)]
