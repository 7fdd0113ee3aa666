"""docs/checkpoints.md is of this code: every comparison is in it, and every error within the tolerance."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES
from naflex_deploy.compiler.checkpoints.timm.config import ALLOWED
from tests.support.naflexvit import OPTIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "checkpoints.md"


def test_the_table_is_of_this_code():
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    compared = {(row[0], row[1]): float(row[3]) for row in rows if len(row) == 5 and "e-" in row[3]}
    assert {option for family, option in compared if family == "timm, registered"} == set(ARCHITECTURES)
    assert {option for family, option in compared if family == "timm, options"} == set(OPTIONS)
    assert {family for family, _ in compared} == {"SigLIP2", "timm, registered", "timm, options", "big_vision", "own"}
    assert max(compared.values()) <= 1e-5
    assert {row[0].strip("`") for row in rows} >= ALLOWED.keys()
