"""The published table of the passes' results on each kind of model."""

from __future__ import annotations

from pathlib import Path

import pytest

from naflex_deploy.compiler.backends.onnxruntime import lowering
from naflex_deploy.compiler.passes.graphs import read
from tests.support.graphs import CASES, FAMILIES, portable

DOCUMENT = Path(__file__).parents[3] / "docs" / "fusions.md"


def table() -> dict[str, list[str]]:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name: cells for name, *cells in rows}


def test_the_table_lists_every_kind() -> None:
    assert list(table()) == list(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_the_table_says_what_passes_do(name: str) -> None:
    record = {str(one["pass"]): one for one in lowering.rewrite(read(portable(name)))}
    attentions, positions, probe, merged = table()[name]
    assert record["fuse_attention"]["changed"] == int(attentions)
    assert record["fold_probe"]["changed"] == (probe == "folded")
    for said, one in ((positions, record["fuse_positions"]), (merged, record["merge_positions"])):
        reasons = list(one["refused"].values())  # type: ignore[attr-defined]
        if said in ("fused", "yes"):
            assert (one["changed"], reasons) == (1, [])
        elif said == "none":
            assert (one["changed"], reasons) == (0, [])
        else:
            assert one["changed"] == 0
            assert said.removeprefix("refused: ") in reasons[0]
