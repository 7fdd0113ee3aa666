"""Draws parts that any kind of page can have around its body: headings, logos, barcodes, stamps, a paragraph."""

from __future__ import annotations

import numpy as np

from naflex_deploy.demo.sheet import Box, Sheet


def furnish(sheet: Sheet, kind: str) -> Box:
    """Draw furniture at the edges of a sheet.

    Returns:
        The region left for the body, at least 60 % of the page's height.
    """
    rng, em = sheet.rng, sheet.em
    page = Box(0, 0, *sheet.image.size)
    if rng.random() < 0.2:
        sheet.frame(page.inset(0.5 * em), outline=sheet.mix(rng.uniform(0.3, 1)), width=sheet.hairline)
    body = page.inset(min(rng.uniform(0.9, 2.2) * em, 0.08 * min(page.width, page.height)))
    spare = 0.32 * body.height
    for part in rng.permutation(len(_PARTS)):
        wanted, draw = _PARTS[part]
        height = rng.uniform(1.6, 3.4) * em
        if rng.random() < wanted and height + em < spare:
            spare -= height + em
            if rng.random() < 0.65:
                strip, body = body.cut(height)
                body = body._replace(top=min(body.bottom, body.top + 0.8 * em))
            else:
                strip = body._replace(top=body.bottom - height)
                body = body._replace(bottom=body.bottom - height - 0.8 * em)
            draw(sheet, strip)
    if rng.random() < 0.15:
        _stamp(sheet, page)
    return body


def _heading(sheet: Sheet, box: Box) -> None:
    size = sheet.size(sheet.rng.uniform(1.2, 1.9))
    text = sheet.fit(sheet.words(3).title(), box.width, size)
    if sheet.rng.random() < 0.5:
        sheet.text((box.left + box.right) / 2, box.top + box.height / 2, text, size, "mm")
    else:
        sheet.text(box.left, box.top + box.height / 2, text, size)


def _logo(sheet: Sheet, box: Box) -> None:
    left = box.left if sheet.rng.random() < 0.5 else box.right - box.height
    mark = Box(left, box.top, left + box.height, box.bottom)
    if sheet.rng.random() < 0.5:
        sheet.draw.ellipse(mark, sheet.accent)
    else:
        sheet.frame(mark, sheet.accent)


def _band(sheet: Sheet, box: Box) -> None:
    sheet.frame(box, sheet.accent)
    size = sheet.size(1.0)
    sheet.text(
        box.left + sheet.em,
        box.top + box.height / 2,
        sheet.fit(sheet.words(3), box.width - 2 * sheet.em, size),
        size,
        fill=sheet.paper,
    )


def _bars(sheet: Sheet, box: Box) -> None:
    width = min(box.width, sheet.rng.uniform(7, 14) * sheet.em)
    left = box.left + sheet.rng.random() * (box.width - width)
    sheet.barcode(Box(left, box.top, left + width, box.bottom))


def _matrix(sheet: Sheet, box: Box) -> None:
    sheet.matrix_code(box.left + sheet.rng.random() * max(0, box.width - box.height), box.top, box.height)


def _paragraph(sheet: Sheet, box: Box) -> None:
    sheet.prose(box, 1.4, sheet.size(0.85), 3)


def _rule(sheet: Sheet, box: Box) -> None:
    y = box.top + box.height / 2
    if sheet.rng.random() < 0.5:
        sheet.rule(box.left, y, box.right, y)
    else:
        sheet.dashes(box.left, y, box.right, y, sheet.em)


def _signature(sheet: Sheet, box: Box) -> None:
    width = min(box.width, sheet.rng.uniform(5, 9) * sheet.em)
    left = box.left + sheet.rng.random() * (box.width - width)
    sheet.scrawl(Box(left, box.top, left + width, box.bottom), box.top + box.height / 2, 1.3 * sheet.em)


def _stamp(sheet: Sheet, page: Box) -> None:
    radius = sheet.rng.uniform(1.5, 3) * sheet.em
    x, y = sheet.rng.random(2) * np.array([page.width, page.height])
    for r in (radius, 0.8 * radius):
        sheet.draw.ellipse((x - r, y - r, x + r, y + r), outline=sheet.accent, width=sheet.hairline)
    sheet.text(x, y, sheet.words(1), sheet.size(0.7), "mm", sheet.accent)


_PARTS = (
    (0.4, _heading),
    (0.2, _logo),
    (0.2, _band),
    (0.2, _bars),
    (0.12, _matrix),
    (0.25, _paragraph),
    (0.2, _rule),
    (0.15, _signature),
)
