"""docs/checkpoints.md is of this code: every comparison is in it, and every error within the tolerance."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.accuracy import checkpoint_directories, checkpoint_table
from naflex_deploy.compiler.checkpoints.families.registry import OTHERS
from naflex_deploy.compiler.checkpoints.timm.architectures import ARCHITECTURES
from naflex_deploy.compiler.checkpoints.timm.config import ALLOWED
from tests.support.naflexvit import OPTIONS
from tests.support.vlms import VLMS

DOCUMENT = Path(__file__).parents[3] / "docs" / "checkpoints.md"


def test_the_table_is_of_this_code():
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    compared = {(row[0], row[1]): float(row[3]) for row in rows if len(row) == 5 and "e-" in row[3]}
    assert {option for family, option in compared if family == "timm, registered"} == set(ARCHITECTURES)
    assert {option for family, option in compared if family == "timm, options"} == set(OPTIONS)
    assert {family for family, _ in compared} == {
        "SigLIP2",
        "tower of",
        "timm, registered",
        "timm, options",
        "big_vision",
        "own",
    }
    assert {option for family, option in compared if family == "tower of"} == set(VLMS)
    assert [[title, kinds] for title, kinds in checkpoint_table.family_rows() if [title, kinds] not in rows] == []
    assert [[f"`{kind}`", why] for kind, why in OTHERS.items() if [f"`{kind}`", why] not in rows] == []
    assert max(compared.values()) <= 1e-5
    assert {row[0].strip("`") for row in rows} >= ALLOWED.keys()
    for name, values in ALLOWED.items():
        assert [f"`{name}`", ", ".join(f"`{value!r}`" for value in values)] in rows


def test_every_kind_of_directory_is_in_the_table() -> None:
    """Errors are within the tolerance, and refusals are those of this code."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    kinds = {(row[0], row[1]): row[3] for row in rows if len(row) == 4 and row[0] in checkpoint_directories.GROUPS}
    assert {group for group, _ in kinds} == checkpoint_directories.GROUPS.keys()
    errors = [float(outcome) for outcome in kinds.values() if not outcome.startswith("refused: ")]
    assert len(errors) >= 30
    assert max(errors) <= 1e-5
    with tempfile.TemporaryDirectory() as folder:
        for kind in checkpoint_directories.GROUPS["quantised"](Path(folder)):
            assert kinds[kind.group, kind.name] == kind.outcome
