"""Explain errors in a profile: where a value came from, what is allowed there, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from naflex_deploy.core.errors import UsageError, nearest


def explain(error: ValidationError, model: type[BaseModel], source: Callable[[str], str]) -> UsageError:
    """Describe the first problem of a mapping, with its path, what is allowed and what was found.

    Args:
        error: The error that validating the mapping raised.
        model: The model of the whole mapping.
        source: Gives the origin of the value at a dotted path.
    """
    first = error.errors()[0]
    field = _field_path(first["loc"], model)
    where = f"{source(field)}: {field}" if field else source("")
    if first["type"] == "extra_forbidden":
        parent, _, key = field.rpartition(".")
        return UsageError(f"{where}: unknown key", hint=nearest(key, _keys_of(parent, model)))
    # A union reports each alternative that failed, so name all of them.
    allowed = dict.fromkeys(_allowed(item) for item in error.errors() if _field_path(item["loc"], model) == field)
    found = "" if isinstance(first["input"], dict) else f", found {first['input']!r}"
    return UsageError(
        f"{where}: {'' if first['type'] == 'value_error' else 'expected '}{' or '.join(allowed)}{found}",
        hint="`naflex-deploy profiles NAME` prints a complete profile",
    )


def _allowed(item: ErrorDetails) -> str:
    match item["type"]:
        case "missing":
            return "a value, found none"
        case "model_type":
            return "a table"
        case "too_short":
            return f"a list of at least {item['ctx']['min_length']}"
    return item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _field_path(location: tuple[int | str, ...], model: Any) -> str:
    """The part of a pydantic location that names a key of the profile."""
    path: list[str] = []
    for part in location:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        path.append(str(part))
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        model = field.annotation if field else None
    return ".".join(path)


def _keys_of(path: str, model: Any) -> list[str]:
    """The keys of a section of the profile."""
    for part in path.split(".") if path else []:
        model = model.model_fields[part].annotation
    return [field.alias or name for name, field in model.model_fields.items()]
