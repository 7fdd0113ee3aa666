"""naflex-deploy embed"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from naflex_deploy import load
from naflex_deploy.cli.embed_for import embed_for
from naflex_deploy.cli.embed_report import Warned, count, print_document, print_report, print_warnings
from naflex_deploy.cli.embed_text import embed_texts
from naflex_deploy.cli.progress import Progress
from naflex_deploy.cli.terminal import (
    err,
    json_option,
    path_option,
    print_error,
    reports_errors,
    wait_option,
)
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.files import refuse_existing
from naflex_deploy.runtime.embedding.handover import Form
from naflex_deploy.runtime.embedding.run import embed_files
from naflex_deploy.runtime.embedding.summary import FrameDone, Places
from naflex_deploy.runtime.results.handover import Narrow
from naflex_deploy.runtime.results.result import Result
from naflex_deploy.runtime.results.writers import find_format, paths_of

SHOWN = 40
"""Frames of the table on stdout; the rest is in the file."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Embed this text instead of images. Repeatable.")
@path_option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write vectors to FILE, in the format that its suffix names, such as .npz or .parquet.",
)
@path_option("--tokens", metavar="DIR", help="Write the tokens of each frame to DIR as [h, w, D] .npy.")
@path_option("--preview", metavar="DIR", help="Draw each frame with its tiles, its packs and its tokens into DIR.")
@click.option(
    "--for",
    "server",
    type=click.Choice(["sglang", "vllm"]),
    help="Write the tokens of each image to the folder that -o names, as this server of language models takes them.",
)
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Of the tokens that --for writes: float16."
)
@click.option("--resume", is_flag=True, help="Continue a run that was interrupted.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--variant", metavar="NAME", help="Use this variant. Default: the first one that runs here.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change how inputs are read: image.dpi=200, image.fit=tiles, video.rate=5, video.frames=scenes. Repeatable.",
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
    server: Form | None,
    dtype: Narrow | None,
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
    if server is None and dtype is not None:
        raise UsageError("--dtype is of the tokens that --for writes", hint="vectors are written in float32")
    if server is not None:
        if texts or tokens or preview or resume:
            raise UsageError("--for goes with neither --text, --tokens, --preview nor --resume", hint="leave them out")
        embed_for(
            server,
            dtype or "float16",
            bundle,
            inputs,
            output,
            variant=variant,
            settings=settings,
            force=force,
            as_json=as_json,
        )
        return
    if texts:
        embed_texts(bundle, texts, output, force=force, as_json=as_json)
        return
    if output is not None:
        refuse_existing(output, force=force or resume, made=find_format(output).made)
        for path in paths_of(output)[1:]:
            refuse_existing(path, force=force or resume)
    engine = load(bundle, variant=variant, settings=settings)
    display = _Display()
    with Progress("files") as progress:
        summary = embed_files(
            engine,
            inputs,
            Places(output, tokens, preview),
            resume=resume,
            force=force,
            on_frame=display.add,
            on_rejected=display.reject,
            on_progress=lambda counts: progress.show("embedding", counts),
        )
    if summary.complete:
        err.print(f"{output} is complete already", markup=False)
        return
    if summary.damaged:
        err.print(f"warning: {count(summary.damaged, 'damaged row')} of the earlier run embedded again", markup=False)
    warned = list(display.doubtful.values())
    if as_json:
        print_document(summary, display.shown, warned, output)
    else:
        print_warnings(warned, SHOWN)
        print_report(summary, display.shown, output, engine)
    if summary.rejected:
        sys.exit(ImageError.code)


class _Display:
    """What is shown of frames: errors at once, warnings and a table at the end."""

    def __init__(self) -> None:
        self.shown: list[FrameDone] = []
        self.doubtful: dict[str, Warned] = {}

    def add(self, frame: FrameDone) -> None:
        if len(self.shown) < SHOWN:
            self.shown.append(frame)
        whole = frame.rows[0]
        if frame.warnings:  # the frames of one input mostly share their doubts, so its first one speaks for them
            self.doubtful.setdefault(whole.path, (whole.path, whole.frame, "; ".join(frame.warnings)))

    def reject(self, result: Result) -> None:
        if result.error is not None:
            print_error(result.error)
