"""naflex-deploy look"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from naflex_deploy.cli.terminal import err, json_option, out, print_json, reports_errors
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, NaflexError
from naflex_deploy.core.files import new_file
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.images.cutting import Cutter
from naflex_deploy.runtime.images.fit import Fit
from naflex_deploy.runtime.images.inputs import expand, open_inputs
from naflex_deploy.runtime.images.looking import draw
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.pdf import Page
from naflex_deploy.runtime.images.media.read import read_frames


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where PNG files go."
)
@click.option("--profile", default="photo", show_default=True, metavar="NAME|FILE", help="How images become tokens.")
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Change the profile. Repeatable.")
@click.option(
    "--patch-size", default=16, show_default=True, type=click.IntRange(1, 256), help="Of the model, in pixels."
)
@click.option(
    "--resample",
    default="bilinear",
    show_default=True,
    type=click.Choice(["bilinear", "bicubic"]),
    help="Of the model: bilinear for SigLIP2, bicubic for timm.",
)
@click.option(
    "--frames", "most", default=20, show_default=True, type=click.IntRange(1), help="Most frames of one input."
)
@json_option
@reports_errors
def command(
    inputs: tuple[Path, ...],
    output: Path,
    profile: str,
    settings: tuple[str, ...],
    patch_size: int,
    resample: str,
    most: int,
    as_json: bool,
) -> None:
    """Draw what the model sees of images, documents, scans and clips, and say how it came about.

    \b
    naflex-deploy look scan.dcm fax.tif --profile medical -o seen/

    Each frame becomes a PNG with its patch grid and the outlines of its tiles, and each tile one of its own. A line
    per frame tells every decision: orientation, pixel ratio, range, window, colour, level, resampling; those that a
    person should check are marked with an exclamation mark. Needs no bundle. The exit code is 6 where an input is bad.
    """
    config = resolve(profile, settings=settings).profile
    model = Preprocessing(patch_size=patch_size, resample="bicubic" if resample == "bicubic" else "bilinear")
    cutter = Cutter(config.image, model, config.image_tokens(config.engine.backends[0]))
    rows = []
    for number, item in enumerate(open_inputs(expand(inputs))):
        for row in _look(item.name, item.source, number, config, cutter, output, most):
            rows.append(row)
            if not as_json:
                _print(row)
    if as_json:
        print_json("look", frames=rows)
    if any(row["error"] for row in rows):
        sys.exit(ImageError.code)


def _look(
    name: str, source: Any, number: int, profile: Profile, cutter: Cutter, output: Path, most: int
) -> Iterator[dict[str, Any]]:
    """A row for each frame, whose PNG files are written by then."""
    if isinstance(source, NaflexError):
        yield _row(name, Frame(0, error=source))
        return
    for count, frame in enumerate(read_frames(source, name=name, profile=profile)):
        if count >= most:
            return
        row = _row(name, frame)
        try:
            layout, (whole, *tiles) = cutter(frame, name)
            stem = f"{number:05}-{frame.number:05}"
            pictures = {f"{stem}.png": draw(whole, cutter.model.patch_size, tiles)}
            for index, tile in enumerate(tiles, 1):
                pictures[f"{stem}-tile{index:02}.png"] = draw(tile, cutter.model.patch_size)
            for file, picture in pictures.items():
                with new_file(output / file) as partial:
                    picture.save(partial, "PNG")
            fit = layout.whole
            row["files"] = list(pictures)
            row["grid"] = list(fit.grid_hw)
            row["tiles"] = len(tiles)
            padded = "" if fit.size == fit.canvas else ", padded to whole patches"
            row["decisions"].append(f"resampling: {_resampling(frame, fit, cutter.model.resample)}{padded}")
        except NaflexError as error:
            row["error"] = str(error)
        yield row


def _resampling(frame: Frame, fit: Fit, filter: str) -> str:
    height, width = fit.size
    if isinstance(frame.picture, Page):
        return f"none, drawn at {width}x{height}"
    if frame.picture is not None and frame.picture.size == (width, height):
        return "none"
    return f"resampled once to {width}x{height}, {filter}"


def _row(name: str, frame: Frame) -> dict[str, Any]:
    return {
        "input": name,
        "frame": frame.number,
        "time": frame.time,
        "size": list(frame.picture.size) if frame.picture else None,
        "aspect": frame.aspect,
        "dpi": frame.dpi,
        "grid": None,
        "tiles": 0,
        "decisions": [f"{item.about}: {item.value}" for item in frame.decisions],
        "warnings": [item.value for item in frame.decisions if item.warning],
        "files": [],
        "error": str(frame.error) if frame.error else None,
    }


def _print(row: dict[str, Any]) -> None:
    where = f"{row['input']} frame {row['frame'] + 1}" + (f" at {row['time']:.3f} s" if row["time"] is not None else "")
    if row["error"]:
        err.print(f"{where}: {row['error']}", style="red", markup=False)
        return
    marked = [f"{'! ' if line.split(': ', 1)[1] in row['warnings'] else ''}{line}" for line in row["decisions"]]
    width, height = row["size"]
    grid = f"{width}x{height} stored, grid {row['grid'][1]}x{row['grid'][0]}"
    tiles = f" and {row['tiles']} tiles" if row["tiles"] else ""
    out.print(f"{where}: {grid}{tiles}; {'; '.join(marked)}; {row['files'][0]}", markup=False, soft_wrap=True)
