"""Output of every command: results on stdout, progress and errors on stderr, and an exit code for each error."""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from naflex_deploy.core.errors import FULL, NaflexError, OutputError
from naflex_deploy.core.locks import waiting
from naflex_deploy.core.manifest import Gate, Witness

JSON_SCHEMA = 1

P = ParamSpec("P")
R = TypeVar("R")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
"""For errors, which are also printed where everything else is silenced."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def _wait(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.with_resource(waiting(lambda line: err.print(_plain(line))))


def path_option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """An option that names a file or a directory; ``attributes`` are those of `click.option`."""
    return click.option(*names, type=click.Path(path_type=Path), **attributes)


wait_option = click.option(
    "--wait",
    is_flag=True,
    expose_value=False,
    callback=_wait,
    help="Wait while another process writes the same output, instead of exiting with 2.",
)


class Amount(click.FloatRange):
    """A finite number above 0, or from 0 on. click's own range accepts ``nan``."""

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__(0, min_open=not zero)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return found


def reports_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Print a `NaflexError` with its hint on stderr, and exit with its code. So is a disk that is full anywhere."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except NaflexError as error:
            print_error(error)
            sys.exit(error.code)
        except OSError as error:
            if error.errno not in FULL:
                raise
            full = OutputError(
                f"cannot write {error.filename or 'a file'}: {error.strerror}",
                hint="free some space, also where temporary files go, which TMPDIR names",
            )
            print_error(full)
            sys.exit(full.code)

    return wrapped


def print_error(error: NaflexError) -> None:
    """Print one line that says what happened, and one that says what to do."""
    errors.print(f"[bold red]error:[/] {_plain(error.message)}")
    if error.hint:
        errors.print(f"[bold]hint:[/]  {_plain(error.hint)}")


@contextmanager
def silenced() -> Iterator[None]:
    """Print nothing but errors and JSON inside the block."""
    before = out.quiet, err.quiet
    out.quiet = err.quiet = True
    try:
        yield
    finally:
        out.quiet, err.quiet = before


def print_json(command: str, **content: Any) -> None:
    """Print the document of ``--json``."""
    click.echo(json.dumps({"schema": JSON_SCHEMA, "command": command, **content}, indent=2))


def print_table(title: str, columns: list[str], rows: list[list[object]], width: int = 10_000) -> None:
    """Print a table with numbers aligned to the right. A table with a title follows a blank line.

    In a terminal, columns of text are folded to its width; elsewhere to ``width``. The default keeps every row in one
    line of a file or pipe.
    """
    if title:
        out.print()
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    cells = [[str(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numbers = _numbers(row[index] for row in cells)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    for row in cells:
        table.add_row(*map(_plain, row))
    if out.is_terminal:
        out.print(table, soft_wrap=False)
    elif not out.quiet:
        Console(highlight=False, width=width, soft_wrap=True).print(table)


def listed(value: object) -> str:
    """Format a value for a table: a list without brackets, ``None`` as ``-``."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _numbers(cells: Iterable[str]) -> bool:
    """Whether a column holds only numbers such as ``1,024``, ``97.5%`` or ``382 MB``, or ``-``."""
    return all(re.fullmatch(r"-|-?[\d,]+(\.\d+)?(e[+-]?\d+)?( ?(%|MB|dpi))?", cell) for cell in cells)


def describe_witness(witness: Witness | None) -> str:
    """The witness of a bundle in one line."""
    if witness is None:
        return "none: the bundle was built before there was one"
    if witness.status == "skipped":
        return f"skipped: {witness.reason}"
    return f"{witness.status} against {witness.original}: largest error {max(witness.errors.values(), default=0.0):.1e}"


def describe_decisions(gate: Gate) -> str:
    """How decisions compare with float32; empty where the golden packs hold no real images."""
    f = gate.figures
    if "images" not in f:
        return ""
    parts = [f"{kind} cosine {f[f'{kind}_cosine']:.4f}" for kind in ("pooled", "token") if f"{kind}_cosine" in f]
    parts += [f"top-1 agreement {f['top1_agreement']:.1%}", f"logit margin error {f['margin_error']:.1%}"]
    if "accuracy" in f:
        parts.append(f"accuracy {f['accuracy']:.1%} (float32: {f['reference_accuracy']:.1%})")
    return f"{', '.join(parts)} on {f['images']:.0f} images"


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Report the steps of a long command: by a spinner in a terminal, by lines elsewhere."""
    if not err.is_terminal:
        yield lambda step: err.print(_plain(step))
        return
    with err.status("") as status:
        yield lambda step: status.update(_plain(step))


def _plain(text: str) -> str:
    """Escape square brackets, which would be markup."""
    return text.replace("[", r"\[")
