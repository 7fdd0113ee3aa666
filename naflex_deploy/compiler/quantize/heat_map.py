"""Draws the loss of each site: one row per kind, one column per block, and a first column for sites outside blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from naflex_deploy.compiler.quantize.sensitivity import Cost, Sensitivity, block_of, kind_of

CELL, HEIGHT, LEFT, TOP = 46, 24, 110, 56
DECADES = 4.0
"""Number of decades below the worst loss over which the colour fades out."""


def heat_map(found: Sensitivity) -> str:
    """Draw an SVG. Cells are coloured by the logarithm of the loss in cosine; sites that stay float are framed."""
    sites = {cost.name: cost for cost in found.costs if cost.sites == (cost.name,)}
    columns = sorted(dict.fromkeys(map(block_of, sites)), key=lambda block: (len(block), block))
    rows = sorted(dict.fromkeys(map(kind_of, sites)))
    worst = max((cost.losses["cosine"] for cost in sites.values()), default=0.0)
    width, height = LEFT + CELL * len(columns) + 10, TOP + HEIGHT * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="10">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="12">1 - mean cosine with one site in int8, {found.images} images</text>',
        '<text x="8" y="32">framed: stays float</text>',
        *(
            f'<text x="{LEFT + CELL * (i + 0.5)}" y="{TOP - 6}" text-anchor="middle">{escape(name)}</text>'
            for i, name in enumerate(columns)
        ),
        *(
            f'<text x="{LEFT - 6}" y="{TOP + HEIGHT * (i + 0.65)}" text-anchor="end">{escape(name)}</text>'
            for i, name in enumerate(rows)
        ),
    ]
    for name, cost in sites.items():
        x, y = LEFT + CELL * columns.index(block_of(name)), TOP + HEIGHT * rows.index(kind_of(name))
        parts += _cell(cost, x, y, worst, framed=name in found.float_sites)
    return "\n".join([*parts, "</svg>", ""])


def _cell(cost: Cost, x: int, y: int, worst: float, *, framed: bool) -> Iterator[str]:
    loss = cost.losses["cosine"]
    fade = min(1.0, math.log10(worst / loss) / DECADES) if loss > 0 else 1.0
    other = round(255 * fade)
    frame = ' stroke="black" stroke-width="2"' if framed else ""
    yield (
        f'<rect class="site" x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{HEIGHT - 2}"'
        f' fill="rgb(255,{other},{other})"{frame}><title>{escape(cost.name)}: {loss:.2e}</title></rect>'
    )
    yield f'<text x="{x + CELL / 2}" y="{y + HEIGHT * 0.65}" text-anchor="middle">{loss:.0e}</text>'
