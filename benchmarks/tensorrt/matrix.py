"""Tests what TensorRT-RTX builds, by form of attention, precision and target, with a small model and without a GPU.

    python -m benchmarks.tensorrt.matrix            prints the tables
    python -m benchmarks.tensorrt.matrix --write    puts them into docs/tensorrt.md
    … --families                                    only that of the image towers of vision-language models

A cell says whether attention was ``fused`` into one kernel that stores no scores, or left ``unfused``, or whether the
library ``refused`` the graph. Only a build can show this; no engine is executed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from naflex_deploy.compiler.backends.tensorrt.lowering import check_header, check_products, make_request, write_lowered
from naflex_deploy.compiler.backends.tensorrt.process import Built, Request, run_all
from naflex_deploy.compiler.backends.tensorrt.quantize import KINDS
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.compiler.passes.graphs import read
from naflex_deploy.compiler.quantize.layers import groups
from naflex_deploy.compiler.quantize.quantization import Quantization, plain
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from naflex_deploy.runtime.backends.tensorrt.plan import TARGETS
from tests.support.graphs import FAMILIES, SWEPT

BACKEND = "tensorrt-rtx"
FORMS = ("segment", "rows", "packed")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
DEFAULT = "default"
COLUMNS = (*TARGETS, DEFAULT)
BUDGETS = (64, 128, 256)
PAGE = Path(__file__).parents[2] / "docs" / "tensorrt.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
BEGIN_FAMILIES, END_FAMILIES = "<!-- families -->", "<!-- end of families -->"

SMALL = Architecture(64, 1, 2, 128, 4, Positions((4, 4)))
TOWERS = {name: replace(FAMILIES[name], width=64, mlp_width=128) for name in ("Qwen3-VL", *SWEPT)}
"""Small towers of vision-language models, with heads as wide as those of `SMALL`."""
TOWER_FORMS, TOWER_PRECISIONS = ("segment", "rows"), ("fp16", "bf16", "int8")


@dataclass(frozen=True)
class Cell:
    """One build, of a form of attention, precision, target and number of budgets, of `SMALL` or a name in `TOWERS`."""

    form: str
    precision: str
    target: str
    budgets: int
    model: str = ""

    @property
    def architecture(self) -> Architecture:
        return TOWERS[self.model] if self.model else SMALL


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    """Build every cell, and check the header of every plan."""
    version = tensorrt_library.installed(BACKEND) or ""
    with tempfile.TemporaryDirectory() as temporary:
        lowered = [_request(cell, _exported(cell, Path(temporary))) for cell in cells]
        requests = [request for request, _ in lowered]
        for cell, (request, quantization), result in zip(cells, lowered, run_all(requests), strict=True):
            if isinstance(result, Built):
                check_header(Path(request.plan), version, request.targets)
                check_products(result.log, quantization)
                fused = {profile.fused_attentions for profile in result.log.profiles}
                assert len(result.log.profiles) == cell.budgets
                yield cell, "fused" if fused == {cell.architecture.depth} else "unfused"
            else:
                yield cell, "refused"


def _exported(cell: Cell, folder: Path) -> Path:
    """A folder that holds the portable graph of a cell's model."""
    own = folder / (cell.model.replace(" ", "-") or "small")
    if not own.exists():
        own.mkdir()
        names = ("tokens", "pooled", "vlm", "deepstack:0")
        outputs = tuple(name for name in names if name in cell.architecture.outputs)
        export(random_checkpoint(cell.architecture).model(outputs), own / "portable.onnx")
    return own


def _request(cell: Cell, folder: Path) -> tuple[Request, Quantization | None]:
    graph = folder / f"{cell.form}-{cell.precision}.onnx"
    portable = folder / "portable.onnx"
    quantization = None
    if cell.precision in KINDS:
        model = read(portable)
        sites = {group.site: (-8.0, 8.0) for group in groups(model) if group.site.startswith("blocks.")}
        quantization = plain(model, sites, KINDS[cell.precision])
    inputs, _ = write_lowered(portable, graph, cell.form, cell.precision, quantization)
    sizes = [{"tokens": tokens, "images": 8, "rows": 4, "row_tokens": 64} for tokens in BUDGETS[: cell.budgets]]
    targets = () if cell.target == DEFAULT else (cell.target,)
    # A plan of its own: the next one is built while this one is checked.
    plan = folder / f"{cell.form}-{cell.precision}-{cell.target}-{cell.budgets}.plan"
    request = make_request(BACKEND, graph, plan, inputs, sizes, targets, cell.precision)
    return request, quantization


def table(found: dict[Cell, str]) -> str:
    """Render the table in Markdown; a cell whose result differs between one budget and three gives both."""
    lines = [f"| attention | precision | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for form in FORMS:
        for precision in PRECISIONS:
            cells = []
            for target in COLUMNS:
                results = dict.fromkeys(found[Cell(form, precision, target, budgets)] for budgets in (1, len(BUDGETS)))
                cells.append(", then ".join(results))
            lines.append(f"| {form} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tower_cells() -> list[Cell]:
    """The builds of the table of towers."""
    return [
        Cell(form, precision, DEFAULT, len(BUDGETS), model)
        for model in TOWERS
        for form in TOWER_FORMS
        for precision in TOWER_PRECISIONS
    ]


def tower_table(found: dict[Cell, str]) -> str:
    """Render the builds of towers in Markdown."""
    columns = [(form, precision) for form in TOWER_FORMS for precision in TOWER_PRECISIONS]
    lines = [f"| tower | {' | '.join(map(' '.join, columns))} |", "|---" * (len(columns) + 1) + "|"]
    for model in TOWERS:
        cells = [found[Cell(*column, DEFAULT, len(BUDGETS), model)] for column in columns]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def published(page: str) -> dict[tuple[str, str, str], str]:
    """Read the cells of a page, by form, precision and target."""
    (_, _, *targets), rows = _rows(page, BEGIN, END)
    return {(row[0], row[1], target): cell for row in rows for target, cell in zip(targets, row[2:], strict=True)}


def published_towers(page: str) -> dict[tuple[str, str, str], str]:
    """Read the cells of towers of a page, by tower, form and precision."""
    (_, *columns), rows = _rows(page, BEGIN_FAMILIES, END_FAMILIES)
    return {(row[0], *column.split()): cell for row in rows for column, cell in zip(columns, row[1:], strict=True)}


def _rows(page: str, begin: str, end: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table."""
    lines = page.partition(begin)[2].partition(end)[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return header, rows


def main() -> None:
    cells = [
        Cell(form, precision, target, budgets)
        for form in FORMS
        for precision in PRECISIONS
        for target in COLUMNS
        for budgets in (1, len(BUDGETS))
    ]
    cells = [] if "--families" in sys.argv else cells
    found = {}
    for cell, result in measure([*cells, *tower_cells()]):
        print(f"{cell}: {result}", file=sys.stderr)
        found[cell] = result
    tables = {(BEGIN_FAMILIES, END_FAMILIES): tower_table(found)}
    if cells:
        tables[BEGIN, END] = table(found)
    for (begin, end), text in tables.items():
        print(text)
        if "--write" in sys.argv:
            page = PAGE.read_text(encoding="utf-8")
            head, _, rest = page.partition(begin)
            PAGE.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
