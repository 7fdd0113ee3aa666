"""naflex-deploy search"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from naflex_deploy.cli.progress import Progress
from naflex_deploy.cli.terminal import json_option, path_option, print_json, print_table, reports_errors
from naflex_deploy.core.errors import UsageError

PAGED = (".pdf", ".tif", ".tiff")
"""Suffixes of documents, whose first page is named, too: a row does not say whether there are others."""


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("text")
@path_option(
    "--bundle",
    metavar="DIR",
    help="Bundle whose text tower reads the text. Default: the one beside INDEX, or in build/, that made INDEX.",
)
@click.option(
    "-n", "--top", default=5, show_default=True, type=click.IntRange(1), metavar="N", help="Maximum number of hits."
)
@json_option
@reports_errors
def command(index: Path, text: str, bundle: Path | None, top: int, as_json: bool) -> None:
    """Find the images and pages that fit a text best, in an output of embed.

    \b
    naflex-deploy build --profile photo --model hf:google/siglip2-base-patch16-naflex --text -o build/photo
    naflex-deploy embed build/photo photos/ -o build/photos.npz
    naflex-deploy search build/photos.npz "two dogs on a beach"

    INDEX is a file or directory that `embed -o` wrote. The bundle must have its weights, and a text tower.
    """
    from naflex_deploy.runtime.bundle.bundle import Bundle
    from naflex_deploy.runtime.embedding.search import bundle_of, model_of, search
    from naflex_deploy.runtime.text_encoder import TextEncoder

    model = model_of(index)
    if not model:
        raise UsageError(f"{index} has no rows", hint="embed some images into it")
    opened = Bundle.open(bundle or bundle_of(model, [index.parent, Path("build")]))
    query = TextEncoder(opened).embed(text)
    with Progress("rows") as progress:
        show = partial(progress.show, f"reading {index}")
        hits = search(index, query, opened.manifest.model.digest, top, show)
    if as_json:
        found = [{"cosine": hit.cosine} | dict(hit.row) for hit in hits]
        print_json("search", index=str(index), bundle=str(opened.path), text=text, hits=found)
        return
    named = any(hit.row.get("label") for hit in hits)
    columns = ["hit", "cosine", "image", *(["class"] if named else [])]
    rows = [
        [number, f"{hit.cosine:.3f}", _name(hit.row), *([hit.row.get("label") or ""] if named else [])]
        for number, hit in enumerate(hits, 1)
    ]
    print_table("", columns, rows)


def _name(row: Mapping[str, Any]) -> str:
    """The input of a row, with its page and tile, or its text."""
    if row.get("text") is not None:
        return str(row["text"])
    name = str(row["path"])
    if row.get("time") is not None:
        name += f" at {row['time']:.3f} s"
    elif row.get("frame") or Path(name).suffix.lower() in PAGED:
        name += f" page {row['frame'] + 1}"
    if row.get("tile"):
        left, top, right, bottom = (round(row[side]) for side in ("left", "top", "right", "bottom"))
        name += f" tile {row['tile']} ({left},{top} to {right},{bottom})"
    return name
