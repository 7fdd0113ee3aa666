"""What ``naflex-deploy embed`` prints at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from naflex_deploy.cli.terminal import err, out, print_json, print_table
from naflex_deploy.runtime.embedding.run import output_width
from naflex_deploy.runtime.embedding.summary import FrameDone, Summary
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.results.columns import of_row

Warned = tuple[str, int, str]
"""Path and frame of an input whose pixels a person should check, and why."""


def print_warnings(doubtful: Sequence[Warned], most: int) -> None:
    """Print a line for each input whose pixels leave room for doubt, to stderr; ``look`` draws them."""
    for path, frame, why in doubtful[:most]:
        err.print(f"[yellow]warning:[/] {escape(f'{path}, frame {frame + 1}: {why}')}", soft_wrap=True)
    if len(doubtful) > most:
        err.print(f"[yellow]warning:[/] {len(doubtful) - most} more inputs like these", soft_wrap=True)


def print_document(
    summary: Summary, shown: Sequence[FrameDone], doubtful: Sequence[Warned], output: Path | None
) -> None:
    """Print the document of ``--json``."""
    print_json(
        "embed",
        files=summary.inputs,
        images=summary.images,
        skipped_files=summary.skipped,
        left_out_files=summary.left_out,
        rejected=[{"path": item.name, "frame": item.frame, "error": str(item.error)} for item in summary.rejected],
        warnings=[{"path": path, "frame": frame, "warning": why} for path, frame, why in doubtful],
        tokens=summary.tokens,
        packs=summary.packs,
        seconds=round(summary.seconds, 3),
        output=str(output) if output else None,
        frames_not_shown=summary.frames - len(shown),
        rows=[of_row(row) for frame in shown for row in frame.rows],
    )


def print_report(summary: Summary, shown: Sequence[FrameDone], output: Path | None, engine: Engine) -> None:
    """Print a table of the frames shown, and what the run did."""
    named = bool(engine.labels)
    columns = ["image", "pixels", "grid", "tokens", "pack", *(["class", "score"] if named else [])]
    frames = sorted(shown, key=lambda frame: (frame.rows[0].path, frame.rows[0].frame))
    if frames:
        print_table("", columns, [_cells(frame, named) for frame in frames])
    if summary.frames > len(frames):
        out.print(f"… and {summary.frames - len(frames)} more: -o FILE writes all")
    out.print(_sentence(summary, engine.variant.budgets[-1]))
    if output:
        written = count(summary.written, "vector")
        out.print(f"[bold green]wrote[/] {output}: {written} of {output_width(engine)} float32")


def _sentence(summary: Summary, budget: int) -> str:
    parts = [f"{count(summary.images, 'image')} from {count(summary.inputs, 'file')}"]
    for number, what in (
        (len(summary.rejected), "rejected"),
        (summary.skipped, "done by an earlier run"),
        (summary.left_out, "of no known suffix or without pixels left out"),
    ):
        if number:
            parts.append(f"{number} {what}")
    if summary.packs:
        packs = f"{count(summary.tokens, 'token')} in {count(summary.packs, 'pack')} of up to {budget:,}"
        parts.append(f"{packs}, {summary.tokens / (summary.packs * budget):.0%} full")
    return f"{'; '.join(parts)}; {summary.seconds:.1f} s"


def count(number: int, what: str) -> str:
    """A number with the noun it counts: ``1 image``, ``1,024 images``."""
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
