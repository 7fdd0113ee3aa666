"""Gathers the pages of the site: those of docs/, some that live elsewhere in the repository, and generated ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from docs.site import cli_reference, http_reference, profile_reference

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent

ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "demo.md": "naflex_deploy/demo/README.md",
    "plugins.md": "plugins/README.md",
    "reference/python.md": "docs/site/python.md",
}
"""Pages whose source is not a Markdown file directly in docs/: path on the site → path in the repository."""

_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


class BrokenLinks(Exception):
    """Links of pages to files that are not in the repository, one a line."""


def sources() -> dict[str, Path]:
    """Path on the site → file of the repository, for every page that is written by hand."""
    own = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
    return own | {page: ROOT / path for page, path in ELSEWHERE.items()}


def gather(folder: Path) -> None:
    """Write what Zensical builds the site from: ``zensical.toml``, ``theme/`` and ``pages/``.

    Raises:
        BrokenLinks: A page links to a file that does not exist.
    """
    pages = sources()
    broken = []
    for page, source in pages.items():
        target = folder / "pages" / page
        target.parent.mkdir(parents=True, exist_ok=True)
        text, attachments, missing = relink(source.read_text(encoding="utf-8"), page, source, pages)
        target.write_text(text, encoding="utf-8")
        broken += missing
        for name, path in attachments.items():
            (folder / "pages" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "pages" / name)
    if broken:
        raise BrokenLinks("\n".join(broken))
    reference = folder / "pages" / "reference"
    (reference / "cli.md").write_text(cli_reference.page(), encoding="utf-8")
    (reference / "profile.md").write_text(profile_reference.page(), encoding="utf-8")
    document = http_reference.document()
    (reference / "http.md").write_text(http_reference.page(document), encoding="utf-8")
    (reference / "openapi.json").write_text(http_reference.text(document), encoding="utf-8")
    shutil.copyfile(SITE / "style.css", folder / "pages" / "style.css")
    shutil.copyfile(SITE / "zensical.toml", folder / "zensical.toml")
    shutil.copytree(SITE / "theme", folder / "theme", dirs_exist_ok=True)


def relink(text: str, page: str, source: Path, pages: dict[str, Path]) -> tuple[str, dict[str, Path], list[str]]:
    """A page's text with its links, which hold in the repository, changed to hold on the site.

    Args:
        text: Of the page, in Markdown.
        page: Its path on the site.
        source: Its file in the repository.
        pages: As `sources` gives them.

    Returns:
        The text; files other than pages that it links to, by their paths on the site; and a line for each link whose
        target does not exist.
    """
    places = {path: name for name, path in pages.items()}
    attachments: dict[str, Path] = {}
    missing: list[str] = []

    def replace(line: int, match: re.Match[str]) -> str:
        target = match[1]
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return target
        found = Path(os.path.normpath(source.parent / path))
        if found in places:
            place = places[found]
        elif found.is_file() and found.is_relative_to(ROOT):
            place = f"files/{found.relative_to(ROOT).as_posix()}"
            attachments[place] = found
        else:
            missing.append(f"{source.relative_to(ROOT)}:{line}: there is no file '{path}'")
            return target
        return Path(os.path.relpath(place, Path(page).parent)).as_posix() + hash_ + anchor

    lines = [line if code else _LINK.sub(partial(replace, number), line) for number, line, code in numbered(text)]
    return "\n".join(lines) + "\n", attachments, missing


def numbered(text: str) -> Iterator[tuple[int, str, bool]]:
    """Number, text and whether it is code, for each line of Markdown."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        yield number, line, fenced or fence
        fenced ^= fence
