"""Write the table of docs/integrations.md: ``python -m tests.integrations``."""

from __future__ import annotations

from pathlib import Path

from tests.integrations.libraries import table

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"

if __name__ == "__main__":
    text = PAGE.read_text()
    start = text.index("| Library | What is run |") if "| Library | What is run |" in text else len(text)
    PAGE.write_text(text[:start] + table())
