"""naflex-deploy embed"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from naflex_deploy import load
from naflex_deploy.cli.terminal import err, json_option, out, print_error, print_json, print_table, reports_errors
from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.files import refuse_existing, sha256
from naflex_deploy.runtime.decode import frame_count
from naflex_deploy.runtime.engine import Engine, Result, rank
from naflex_deploy.runtime.inputs import expand
from naflex_deploy.runtime.journal import Journal, Row

SHOWN = 40
"""Rows of the table on stdout; the rest is in the file."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write vectors to FILE.npz or FILE.jsonl.")
@click.option("--resume", is_flag=True, help="Go on where a run that was stopped left off.")
@click.option("--force", is_flag=True, help="Replace the output.")
@click.option("--variant", help="Use this variant of the bundle.")
@json_option
@reports_errors
def command(
    bundle: Path,
    inputs: tuple[Path, ...],
    output: Path | None,
    resume: bool,
    force: bool,
    variant: str | None,
    as_json: bool,
) -> None:
    """Embed image files and directories; where the model has a classifier, name them too.

    A bad image is reported and the others are embedded; the exit code is then 6.
    """
    if output is not None:
        if resume and output.exists() and not force:
            err.print(f"{output} is complete already")
            return
        refuse_existing(output, force=force)
    engine = load(bundle, variant=variant)
    run = _Run(engine, list(dict.fromkeys(expand(inputs))))
    if output is None:
        run.embed_to_nowhere()
    else:
        key = f"{engine.manifest.model.digest} {engine.variant.name}"
        journal = Journal(output, run.width, key)
        with journal.open(resume=resume):
            run.embed_into(journal)
        run.written = journal.finish({str(path): index for index, path in enumerate(run.paths)})
    run.print(output, as_json)
    if run.errors:
        sys.exit(ImageError.code)


class _Run:
    """One call of the command."""

    def __init__(self, engine: Engine, paths: list[Path]) -> None:
        self.engine = engine
        self.paths = paths
        self.outputs = tuple(spec.name for spec in engine.variant.outputs if spec.name in ("pooled", "logits"))
        self.width = next(int(s.shape[-1]) for s in engine.variant.outputs if s.name == "pooled")
        self.shown: list[tuple[Row, int]] = []
        self.errors: list[Result] = []
        self.images = self.skipped = self.written = self.tokens = self.packs = 0

    def embed_into(self, journal: Journal) -> None:
        done = journal.complete()
        recorded = {(row.path, row.digest, row.frame) for row in journal.rows}
        taken: list[tuple[Path, str]] = []

        def pending() -> Iterator[Path]:
            for path in self.paths:
                digest = _digest(path)
                if (str(path), digest) in done:
                    self.skipped += 1
                else:
                    taken.append((path, digest))
                    yield path

        for result in self._results(pending()):
            path, digest = taken[result.input]
            row = self._row(result, path, digest, frame_count(path))
            if (row.path, row.digest, row.frame) not in recorded:
                journal.append(row, result.outputs["pooled"])

    def embed_to_nowhere(self) -> None:
        for result in self._results(iter(self.paths)):
            self._row(result, self.paths[result.input], "", 1)

    def _results(self, paths: Iterator[Path]) -> Iterator[Result]:
        """Results without the failed ones, which are reported; draws the progress bar."""
        columns = (TextColumn("embedding"), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
            task = progress.add_task("embed", total=len(self.paths))
            for result in self.engine.stream(paths, self.outputs):
                progress.advance(task)
                if result.error is not None:
                    self.errors.append(result)
                    print_error(result.error)
                    continue
                self.images += 1
                self.tokens += result.grid_hw[0] * result.grid_hw[1]
                self.packs = max(self.packs, result.pack + 1)
                yield result

    def _row(self, result: Result, path: Path, digest: str, frames: int) -> Row:
        logits = result.outputs.get("logits")
        best = rank(logits, self.engine.labels, 1)[0] if logits is not None else None
        row = Row.of(result, str(path), digest, frames, best)
        if len(self.shown) < SHOWN:
            self.shown.append((row, result.pack))
        return row

    def print(self, output: Path | None, as_json: bool) -> None:
        summary: dict[str, Any] = {
            "files": len(self.paths),
            "images": self.images,
            "skipped_files": self.skipped,
            "rejected": [{"path": item.name, "frame": item.frame, "error": str(item.error)} for item in self.errors],
            "tokens": self.tokens,
            "packs": self.packs,
            "output": str(output) if output else None,
        }
        if as_json:
            print_json("embed", **summary, rows=[asdict(row) for row, _ in self.shown])
            return
        named = bool(self.engine.labels)
        columns = ["image", "pixels", "grid", "tokens", "pack", *(["class", "score"] if named else [])]
        rows = sorted(self.shown, key=lambda item: (item[0].path, item[0].frame))
        print_table("", columns, [_cells(row, pack, named) for row, pack in rows])
        budget = self.engine.variant.budgets[-1]
        fill = self.tokens / (self.packs * budget) if self.packs else 0
        out.print(
            f"{self.images} images from {len(self.paths)} files, {len(self.errors)} rejected, {self.skipped} files "
            f"done by an earlier run; {self.tokens} tokens in {self.packs} packs of up to {budget}, {fill:.0%} full"
        )
        if output:
            out.print(f"[bold green]wrote[/] {output}: {self.written} vectors of {self.width} float32")


def _cells(row: Row, pack: int, named: bool) -> list[object]:
    name = row.path if row.frames == 1 else f"{row.path} frame {row.frame + 1}"
    h, w = row.grid_hw
    cells: list[object] = [name, f"{row.size[0]}x{row.size[1]}", f"{w}x{h}", h * w, pack]
    return [*cells, row.label, f"{row.score:.3f}"] if named else cells


def _digest(path: Path) -> str:
    """sha256 of a file; empty where it cannot be read, which decoding will explain."""
    try:
        return sha256(path)
    except OSError:
        return ""
