"""Values of a profile that have a form of their own: numbers of bytes, names, budgets, scores."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, WithJsonSchema

from naflex_deploy.core.backends import FOLDERS

if TYPE_CHECKING:
    Backend = str
else:
    Backend = Literal[tuple(FOLDERS)]

_UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _byte_count(value: object) -> object:
    """'8GiB' → 8589934592; numbers pass through."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]i?B|B|)\s*", value)
    if match is None:
        raise ValueError("expected a number of bytes such as '8GiB' or '512MB'")
    return int(float(match[1]) * _UNITS[match[2]])


def _output(name: str) -> str:
    if not re.fullmatch(r"pooled|tokens|logits|tokens:-[1-9]\d*(:norm)?|vlm|deepstack:\d+", name):
        raise ValueError(
            "expected 'pooled', 'tokens', 'tokens:-K' (the K-th block from the end), "
            "'tokens:-K:norm' (that block after the final norm), 'logits', 'vlm' (tokens as a language model takes "
            "them) or 'deepstack:K' (its K-th further input)"
        )
    return name


def ascending(budgets: list[int]) -> list[int]:
    """Budgets as they came. Raises a `ValueError` where they do not ascend."""
    if budgets != sorted(set(budgets)):
        raise ValueError("expected budgets in ascending order without repeats")
    return budgets


def once(values: list[str]) -> list[str]:
    if len(values) != len(set(values)):
        raise ValueError("expected no value more than once")
    return values


def _float(number: int | float) -> float:
    """A number, or infinity where it is too large for one, however many digits it has."""
    return float(number) if abs(number) < 1e300 else math.inf


def _interval(value: object) -> object:
    """[low, high] of TOML as a tuple of floats; names pass through."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(side) in (int, float) for side in value):
        low, high = map(_float, value)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError("expected [low, high] with low below high")
        return low, high
    return value


def _window(value: object) -> object:
    """[centre, width] of TOML as a tuple of floats; names pass through."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(side) in (int, float) for side in value):
        centre, width = map(_float, value)
        if not (math.isfinite(centre) and math.isfinite(width) and width >= 1):
            raise ValueError("expected [centre, width] with a width of at least 1")
        return centre, width
    return value


def matching(pattern: str, expected: str, *, quoting: bool = False) -> AfterValidator:
    """A validator of texts.

    Args:
        pattern: Regular expression that the whole text must match.
        expected: What is expected, for the error.
        quoting: Whether the error says what was found. Errors of profiles say that for values of every kind.
    """

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {expected}" + (f", found {value[:80]!r}" if quoting else ""))
        return value

    return AfterValidator(check)


_BYTES = {
    "anyOf": [
        {"type": "integer", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([KMG]i?B|B|)\s*$"},
    ]
}

ByteCount = Annotated[int, BeforeValidator(_byte_count), Field(gt=0), WithJsonSchema(_BYTES)]
Output = Annotated[str, AfterValidator(_output)]
ProfileName = Annotated[str, matching(r"[a-z0-9][a-z0-9._-]*", "lower-case letters, digits, '.', '_' and '-'")]
Target = Annotated[str, matching(r"sm\d{2,3}", "a GPU architecture such as 'sm89'")]
Range = Annotated[Literal["file", "full", "frame"] | tuple[float, float], BeforeValidator(_interval)]
Window = Annotated[Literal["file", "lung", "soft", "bone"] | tuple[float, float], BeforeValidator(_window)]
Budgets = Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(ascending)]
Score = Annotated[float, Field(ge=0, le=1)]
