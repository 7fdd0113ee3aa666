"""Measures the demo's search: ``python -m naflex_deploy.demo.text.evaluate``.

A bundle with both towers embeds unseen pages and the fifty held-out queries. A query is right where the page that it
finds first is of its kind.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naflex_deploy import build, load
from naflex_deploy.demo.draw import draw_pages
from naflex_deploy.demo.evaluate import UNSEEN_STREAM
from naflex_deploy.demo.text.queries import QUERIES
from naflex_deploy.runtime.results.embeddings import Float


def ranked(pages: Float, queries: Float) -> np.ndarray:
    """[M, N] indices of the pages for each query, best first, of vectors of length 1."""
    return np.argsort(-(queries @ pages.T), axis=1, kind="stable")


def wrong(order: np.ndarray, kinds: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each query whose first page is of another kind: the query, its kind and that of the page."""
    asked = [(text, kind) for kind, texts in QUERIES.items() for text in texts]
    first = [kinds[int(row[0])] for row in order]
    return [(text, kind, found) for (text, kind), found in zip(asked, first, strict=True) if found != kind]


def main() -> None:
    """Build, embed, and print the share of queries that are right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=UNSEEN_STREAM, help="stream of pages; training used 0 and 3")
    arguments = parser.parse_args()
    drawn = list(draw_pages(arguments.seed, arguments.pages))
    kinds = [page.kind for page in drawn]
    with tempfile.TemporaryDirectory() as directory:
        build("doc-ocr", "demo", Path(directory) / "demo", text=True, witness=False)
        engine = load(Path(directory) / "demo")
        pages = engine.embed([page.image for page in drawn], normalize=True)
        queries = engine.text.embed([text for texts in QUERIES.values() for text in texts], normalize=True)
    order = ranked(pages, queries)
    missed = wrong(order, kinds)
    for text, kind, found in missed:
        print(f"wrong: {text!r} is a {kind}, and the first page is a {found}")
    asked = [kind for kind, texts in QUERIES.items() for _ in texts]
    right = [kinds[int(page)] == kind for row, kind in zip(order, asked, strict=True) for page in row[:10]]
    print(f"{1 - len(missed) / len(asked):.0%} of {len(asked)} queries find a page of their kind first")
    print(f"{np.mean(right):.1%} of the first ten pages are of the right kind ({len(kinds)} pages)")
    cosines, same = queries @ pages.T, np.array(asked)[:, None] == np.array(kinds)
    for what, found in (
        ("pages of the right kind", cosines[same]),
        ("pages of other kinds", cosines[~same]),
        ("the first page of another kind", np.where(same, -1, cosines).max(axis=1)),
    ):
        low, middle, high = np.quantile(found, (0.01, 0.5, 0.99))
        print(f"cosines of {what}: median {middle:.2f}, 98 % of them from {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
