"""What both kinds of originals need: importing a library, and saying why one cannot be asked."""

from __future__ import annotations

import importlib
from typing import Any


class NoOriginal(Exception):
    """The original cannot be asked; says why."""


def import_library(name: str) -> Any:
    """A library.

    Raises:
        NoOriginal: It is missing, or does not import.
    """
    try:
        module = importlib.import_module(name)
        if name == "transformers":
            # Modules behind the first one are imported when they are asked for.
            importlib.import_module("transformers.models.siglip2.modeling_siglip2")
        return module
    except ModuleNotFoundError as error:
        if error.name == name:
            raise NoOriginal(f"{name} is not installed") from None
        raise NoOriginal(f"{name} is installed and does not import: {first_line(error)}") from None
    except Exception as error:
        line = first_line(error)
        raise NoOriginal(f"{name} is installed and does not import: {type(error).__name__}: {line}") from None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
