"""naflex-deploy embed"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import naflex_deploy
from naflex_deploy import load
from naflex_deploy.cli.embed_text import embed_texts
from naflex_deploy.cli.terminal import err, json_option, out, print_error, print_json, print_table, reports_errors
from naflex_deploy.core.errors import ImageError, NaflexError, UsageError
from naflex_deploy.core.files import new_file, refuse_existing
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import Input, expand, open_inputs
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.results.classes import rank
from naflex_deploy.runtime.results.journal import Done, Journal
from naflex_deploy.runtime.results.outputs import Provenance, Row
from naflex_deploy.runtime.results.preview import draw_preview, principal_colours
from naflex_deploy.runtime.results.result import Result, by_frame, join

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
    elif tokens is not None:
        raise UsageError("--tokens writes files that the output lists", hint="name it with -o, for example -o out.npz")
    engine = load(bundle, variant=variant, settings=settings)
    left_out: list[Path] = []
    run = _Run(engine, list(dict.fromkeys(expand(inputs, left_out.append))), tokens, preview)
    run.left_out = len(left_out)
    start = time.perf_counter()
    if output is None:
        run.embed_to_nowhere()
    else:
        journal = Journal(output, run.width, run.provenance, key=str(tokens))
        with journal.open(resume=resume):
            run.embed_into(journal)
        run.written = journal.finish(run.order)
    run.seconds = time.perf_counter() - start
    run.draw_previews()
    run.print(output, as_json)
    if run.errors:
        sys.exit(ImageError.code)


class _Run:
    """One call of the command."""

    def __init__(self, engine: Engine, paths: list[Path], tokens: Path | None, preview: Path | None) -> None:
        self.engine = engine
        self.paths = paths
        self.tokens_folder = tokens
        self.preview_folder = preview
        available = {spec.name for spec in engine.variant.outputs}
        wanted = ["pooled", "logits", *(["tokens"] if preview else [])]
        self.outputs = tuple(dict.fromkeys([*filter(available.__contains__, wanted), *(["tokens"] if tokens else [])]))
        self.width = next(int(s.shape[-1]) for s in engine.variant.outputs if s.name == "pooled")
        self.order: dict[tuple[str, str], int] = {}
        self.shown: list[list[tuple[Row, int]]] = []
        self.previews: dict[tuple[str, int], tuple[list[Result], npt.NDArray[np.uint8] | None]] = {}
        self.errors: list[Result] = []
        self.inputs = self.frames = self.images = self.tokens = self.packs = 0
        self.skipped = self.left_out = self.written = 0
        self.seconds = 0.0

    @property
    def provenance(self) -> Provenance:
        """What the vectors depend on besides the inputs."""
        manifest = self.engine.manifest
        preparation = manifest.config.model_dump_json(include={"image", "video"})
        return Provenance(
            manifest.model.digest, self.engine.variant.name, preparation, f"naflex-deploy {naflex_deploy.__version__}"
        )

    def embed_into(self, journal: Journal) -> None:
        """Embed what the journal does not have, and record it frame by frame."""
        done = journal.done()
        digests: list[str] = []

        def pending() -> Iterator[Input]:
            for item in open_inputs(self.paths):
                digest = item.digest()
                self.order.setdefault((item.name, digest), len(self.order))
                before = done.get((item.name, digest), Done())
                if before.all:
                    self.inputs += 1
                    self.skipped += 1
                else:
                    digests.append(digest)
                    yield Input(item.name, item.source, before.frames)

        for images, joined in self._frames(pending()):
            digest = digests[joined.input]
            for row, image in zip(self._rows(images, joined, digest), images, strict=True):
                journal.append(row, image.outputs["pooled"])

    def embed_to_nowhere(self) -> None:
        for images, joined in self._frames(open_inputs(self.paths)):
            self._rows(images, joined, "")

    def _frames(self, inputs: Iterable[Input]) -> Iterator[tuple[list[Result], Result]]:
        """The results of each frame, and of it as one; failed ones are reported. Draws the progress bar."""
        columns = (TextColumn("embedding"), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
            task = progress.add_task("embed", total=None)

            def counted() -> Iterator[Input]:
                for item in inputs:
                    self.inputs += 1
                    yield item

            for images in by_frame(self.engine.stream(counted(), self.outputs)):
                progress.advance(task)
                joined = join(images)
                if joined.error is not None:
                    self.errors.append(joined)
                    print_error(joined.error)
                    continue
                self.frames += 1
                self.images += len(images)
                self.tokens += sum(image.grid_hw[0] * image.grid_hw[1] for image in images)
                self.packs = max(self.packs, *(image.pack + 1 for image in images))
                if self.preview_folder:
                    colours = principal_colours(joined.outputs["tokens"]) if "tokens" in joined.outputs else None
                    self.previews[joined.name, joined.frame] = [replace(image, outputs={}) for image in images], colours
                yield images, joined

    def _rows(self, images: Sequence[Result], joined: Result, digest: str) -> list[Row]:
        logits = joined.outputs.get("logits")
        head = self.engine.manifest.head
        best = next(iter(rank(logits, head, 1)), None) if logits is not None and head is not None else None
        tokens = self._write_tokens(joined, digest)
        rows = [Row.of(image, digest, best, tokens) for image in images]
        if len(self.shown) < SHOWN:
            self.shown.append([(row, image.pack) for row, image in zip(rows, images, strict=True)])
        return rows

    def _write_tokens(self, joined: Result, digest: str) -> str:
        """Before the frame is recorded, so that what is recorded is there."""
        if self.tokens_folder is None:
            return ""
        path = self.tokens_folder / f"{digest[:16]}-{joined.frame:05}.npy"
        with new_file(path) as partial, partial.open("wb") as stream:
            np.save(stream, joined.outputs["tokens"])
        return path.name

    def draw_previews(self) -> None:
        """Read the frames once more, as their pixels were not kept."""
        profile, budget = self.engine.manifest.config, self.engine.variant.budgets[-1]
        wanted = {name for name, _ in self.previews}
        for number, item in enumerate(open_inputs(self.paths) if self.preview_folder else ()):
            if item.name not in wanted or isinstance(item.source, NaflexError):
                continue
            for frame in read_frames(item.source, name=item.name, profile=profile):
                found = self.previews.get((item.name, frame.number))
                if found and frame.picture and self.preview_folder:
                    path = self.preview_folder / f"{number:06}-{frame.number:05}.png"
                    with new_file(path) as partial:
                        draw_preview(frame.picture, found[0], budget, found[1]).save(partial, "PNG")

    def print(self, output: Path | None, as_json: bool) -> None:
        summary: dict[str, Any] = {
            "files": self.inputs,
            "images": self.images,
            "skipped_files": self.skipped,
            "left_out_files": self.left_out,
            "rejected": [{"path": item.name, "frame": item.frame, "error": str(item.error)} for item in self.errors],
            "tokens": self.tokens,
            "packs": self.packs,
            "seconds": round(self.seconds, 3),
            "output": str(output) if output else None,
            "frames_not_shown": self.frames - len(self.shown),
        }
        if as_json:
            print_json("embed", **summary, rows=[asdict(row) for frame in self.shown for row, _ in frame])
            return
        named = bool(self.engine.labels)
        columns = ["image", "pixels", "grid", "tokens", "pack", *(["class", "score"] if named else [])]
        frames = sorted(self.shown, key=lambda frame: (frame[0][0].path, frame[0][0].frame))
        if frames:
            print_table("", columns, [_cells(frame, named) for frame in frames])
        if summary["frames_not_shown"]:
            out.print(f"… and {summary['frames_not_shown']} more: -o FILE writes all")
        out.print(self._summary())
        if output:
            out.print(f"[bold green]wrote[/] {output}: {_count(self.written, 'vector')} of {self.width} float32")

    def _summary(self) -> str:
        parts = [f"{_count(self.images, 'image')} from {_count(self.inputs, 'file')}"]
        for number, what in (
            (len(self.errors), "rejected"),
            (self.skipped, "done by an earlier run"),
            (self.left_out, "of no known suffix left out"),
        ):
            if number:
                parts.append(f"{number} {what}")
        if self.packs:
            budget = self.engine.variant.budgets[-1]
            packs = f"{_count(self.tokens, 'token')} in {_count(self.packs, 'pack')} of up to {budget:,}"
            parts.append(f"{packs}, {self.tokens / (self.packs * budget):.0%} full")
        return f"{'; '.join(parts)}; {self.seconds:.1f} s"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cells(frame: list[tuple[Row, int]], named: bool) -> list[object]:
    """A line of the table: a frame and what its images add up to."""
    (whole, _), *tiles = frame
    name = whole.path if whole.last and whole.frame == 0 else f"{whole.path} frame {whole.frame + 1}"
    if whole.time is not None:
        name += f" at {whole.time:.3f} s"
    grid = _by(whole.grid_hw) + (f" + {len(tiles)} x {_by(tiles[0][0].grid_hw)}" if tiles else "")
    tokens = sum(row.grid_hw[0] * row.grid_hw[1] for row, _ in frame)
    packs = sorted({pack for _, pack in frame})
    pack = str(packs[0]) if len(packs) == 1 else f"{packs[0]}-{packs[-1]}"
    cells: list[object] = [name, f"{whole.size[0]}x{whole.size[1]}", grid, tokens, pack]
    return [*cells, whole.label, f"{whole.score:.3f}"] if named else cells


def _by(grid_hw: tuple[int, int]) -> str:
    return f"{grid_hw[1]}x{grid_hw[0]}"
