"""naflex-deploy embed"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from naflex_deploy import load
from naflex_deploy.cli.embed_text import embed_texts
from naflex_deploy.cli.terminal import (
    err,
    json_option,
    out,
    print_error,
    print_json,
    print_table,
    reports_errors,
    wait_option,
)
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.files import refuse_existing
from naflex_deploy.runtime.embedding.run import FrameDone, Places, Summary, embed_files, output_width
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.results.result import Result

SHOWN = 40
"""Frames of the table on stdout; the rest is in the file."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Embed this text, not images. Repeatable.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write vectors to FILE.npz, .jsonl or .parquet.",
)
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the tokens of each frame to DIR as [h, w, D] .npy.",
)
@click.option(
    "--preview",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Draw each frame with its tiles, its packs and its tokens into DIR.",
)
@click.option("--resume", is_flag=True, help="Go on where a run that was stopped left off.")
@click.option("--force", is_flag=True, help="Replace the output.")
@click.option("--variant", metavar="NAME", help="Use this variant of the bundle. Default: the first that runs here.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="A.B=VALUE",
    help="Read inputs in another way: image.dpi=200, image.fit=tiles, video.rate=5, video.frames=scenes. Repeatable.",
)
@wait_option
@json_option
@reports_errors
def command(
    bundle: Path,
    inputs: tuple[Path, ...],
    texts: tuple[str, ...],
    output: Path | None,
    tokens: Path | None,
    preview: Path | None,
    resume: bool,
    force: bool,
    variant: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Embed images, documents, scans and clips; where the model has classes, name them too.

    \b
    naflex-deploy embed build/photo photos/ -o photos.npz
    naflex-deploy embed build/photo report.pdf scan.dcm 'clips/**/*.mp4' -o vectors.parquet --resume

    INPUTS are images, PDF, DICOM and video files, tar shards and Parquet tables of such, directories and patterns.
    A bad one is reported and the others are embedded; the exit code is then 6.
    """
    if bool(inputs) == bool(texts):
        raise UsageError(
            "expected images or --text, found " + ("both" if texts else "neither"),
            hint="naflex-deploy embed BUNDLE IMAGE…, or naflex-deploy embed BUNDLE --text TEXT",
        )
    if texts:
        embed_texts(bundle, texts, output, force=force, as_json=as_json)
        return
    if output is not None:
        if resume and output.exists() and not force:
            err.print(f"{output} is complete already")
            return
        refuse_existing(output, force=force)
    engine = load(bundle, variant=variant, settings=settings)
    with _Display() as display:
        places = Places(output, tokens, preview)
        summary = embed_files(engine, inputs, places, resume=resume, on_frame=display.add, on_rejected=display.reject)
    if as_json:
        _print_document(summary, display, output)
    else:
        _print_report(summary, display, output, engine)
    if summary.rejected:
        sys.exit(ImageError.code)


class _Display:
    """What is shown while frames are embedded: a progress bar on stderr, errors, and the frames of the table."""

    def __init__(self) -> None:
        columns = (TextColumn("embedding"), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=err, disable=not err.is_terminal, transient=True)
        self._task = self._progress.add_task("embed", total=None)
        self.shown: list[FrameDone] = []

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def add(self, frame: FrameDone) -> None:
        self._progress.advance(self._task)
        if len(self.shown) < SHOWN:
            self.shown.append(frame)

    def reject(self, result: Result) -> None:
        self._progress.advance(self._task)
        if result.error is not None:
            print_error(result.error)


def _print_document(summary: Summary, display: _Display, output: Path | None) -> None:
    print_json(
        "embed",
        files=summary.inputs,
        images=summary.images,
        skipped_files=summary.skipped,
        left_out_files=summary.left_out,
        rejected=[{"path": item.name, "frame": item.frame, "error": str(item.error)} for item in summary.rejected],
        tokens=summary.tokens,
        packs=summary.packs,
        seconds=round(summary.seconds, 3),
        output=str(output) if output else None,
        frames_not_shown=summary.frames - len(display.shown),
        rows=[asdict(row) for frame in display.shown for row in frame.rows],
    )


def _print_report(summary: Summary, display: _Display, output: Path | None, engine: Engine) -> None:
    named = bool(engine.labels)
    columns = ["image", "pixels", "grid", "tokens", "pack", *(["class", "score"] if named else [])]
    frames = sorted(display.shown, key=lambda frame: (frame.rows[0].path, frame.rows[0].frame))
    if frames:
        print_table("", columns, [_cells(frame, named) for frame in frames])
    if summary.frames > len(frames):
        out.print(f"… and {summary.frames - len(frames)} more: -o FILE writes all")
    out.print(_sentence(summary, engine.variant.budgets[-1]))
    if output:
        written = _count(summary.written, "vector")
        out.print(f"[bold green]wrote[/] {output}: {written} of {output_width(engine)} float32")


def _sentence(summary: Summary, budget: int) -> str:
    parts = [f"{_count(summary.images, 'image')} from {_count(summary.inputs, 'file')}"]
    for number, what in (
        (len(summary.rejected), "rejected"),
        (summary.skipped, "done by an earlier run"),
        (summary.left_out, "of no known suffix left out"),
    ):
        if number:
            parts.append(f"{number} {what}")
    if summary.packs:
        packs = f"{_count(summary.tokens, 'token')} in {_count(summary.packs, 'pack')} of up to {budget:,}"
        parts.append(f"{packs}, {summary.tokens / (summary.packs * budget):.0%} full")
    return f"{'; '.join(parts)}; {summary.seconds:.1f} s"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cells(frame: FrameDone, named: bool) -> list[object]:
    """A line of the table: a frame and what its images add up to."""
    whole, *tiles = frame.rows
    name = whole.path if whole.last and whole.frame == 0 else f"{whole.path} frame {whole.frame + 1}"
    if whole.time is not None:
        name += f" at {whole.time:.3f} s"
    grid = _by(whole.grid_hw) + (f" + {len(tiles)} x {_by(tiles[0].grid_hw)}" if tiles else "")
    tokens = sum(row.grid_hw[0] * row.grid_hw[1] for row in frame.rows)
    packs = sorted(set(frame.packs))
    pack = str(packs[0]) if len(packs) == 1 else f"{packs[0]}-{packs[-1]}"
    cells: list[object] = [name, f"{whole.size[0]}x{whole.size[1]}", grid, tokens, pack]
    return [*cells, whole.label, f"{whole.score:.3f}"] if named else cells


def _by(grid_hw: tuple[int, int]) -> str:
    return f"{grid_hw[1]}x{grid_hw[0]}"
