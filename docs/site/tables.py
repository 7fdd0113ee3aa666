"""Markdown tables of generated pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with a blank line after it, or nothing where there are no rows."""
    lines = [_line(row) for row in rows]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines, "", ""]) if lines else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(_escaped(cell).split()) for cell in cells) + " |"


def _escaped(cell: str) -> str:
    """Bars outside code do not end a cell; inside code they do not by themselves, and a backslash would be seen."""
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in re.split(r"(`[^`]+`)", cell))


def code(text: str) -> str:
    """Text as inline code, which may itself hold a backtick."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"
