"""Draws the body of each kind of page, in the region that the furniture leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from naflex_deploy.demo.charts import chart
from naflex_deploy.demo.sheet import Box, Sheet


def invoice(sheet: Sheet, box: Box) -> None:
    """Items in four columns with amounts on the right, horizontal rules only, and a block of totals below."""
    rng, em = sheet.rng, sheet.em
    size, step = sheet.size(0.85), rng.uniform(1.5, 2.1) * em
    if box.height > 14 * em:
        parties, box = box.cut(rng.uniform(3.5, 6) * em)
        for party in parties.columns(2, em):
            for y in np.arange(party.top + em, party.bottom - 0.5 * em, 1.2 * em):
                sheet.text(party.left, y, sheet.fit(sheet.words(2), party.width * 0.8, size), size)
    totals_height = min(3 * step, 0.35 * box.height)
    items = box._replace(bottom=box.bottom - totals_height)
    edges = items.left + items.width * np.array([0.1, rng.uniform(0.5, 0.6), rng.uniform(0.74, 0.8), 1.0])
    head, rows = items.cut(step)
    sheet.frame(head, sheet.mix(0.2))
    ruled = rng.random() < 0.7
    for number, y in enumerate(np.arange(rows.top + step / 2, rows.bottom - step / 2, step)):
        sheet.text(items.left, y, str(number + 1), size)
        room = edges[1] - edges[0] - 3 * em
        sheet.text(edges[0], y, sheet.fit(sheet.words(4), room * rng.uniform(0.4, 1), size), size)
        for left, edge, decimals in zip(edges, edges[1:], (False, True, True), strict=False):
            room = edge - left - 0.4 * em if decimals else 2.5 * em
            sheet.text(edge, y, sheet.fit(sheet.number(decimals), room, size), size, "rm")
        if ruled:
            sheet.rule(items.left, y + step / 2, items.right, y + step / 2, fill=sheet.mix(0.5))
    sheet.rule(edges[1], rows.bottom, items.right, rows.bottom, 2 * sheet.hairline)
    for y in np.arange(rows.bottom + step / 2, box.bottom, step):
        sheet.text(edges[1] + 0.5 * em, y, sheet.words(1), size)
        sheet.text(box.right, y, sheet.number(), size, "rm")


def receipt(sheet: Sheet, box: Box) -> None:
    """Tight fixed-pitch lines with items left and prices right, broken by dashes; in several columns if wide."""
    rng, em = sheet.rng, sheet.em
    size, step = sheet.size(rng.uniform(0.8, 1.0)), rng.uniform(1.15, 1.4) * em
    for strip in _split(box, rng.uniform(15, 24) * em, 2 * em):
        cells = max(8, int(strip.width / max(3, round(size * 0.62))))
        until_break = int(rng.integers(1, 3))
        centred = True
        for y in np.arange(strip.top + step / 2, strip.bottom - step / 3, step):
            if until_break == 0:
                line = str(rng.choice(["-", "=", "*", "- "])) * cells
                until_break, centred = int(rng.integers(3, 9)), rng.random() < 0.1
            elif centred:
                line = sheet.words(2).upper().center(cells)
                until_break -= 1
            else:
                price = sheet.number()
                item = sheet.words(3).upper()[: max(2, int((cells - len(price) - 1) * rng.uniform(0.4, 1)))]
                line = item + price.rjust(cells - len(item))
                until_break -= 1
            sheet.mono(strip.left, y, line[:cells], size)


def letter(sheet: Sheet, box: Box) -> None:
    """Prose in one to three columns after an address, signed by hand."""
    rng, em = sheet.rng, sheet.em
    size = sheet.size(rng.uniform(0.8, 1.05))
    if box.height > 12 * em:
        address, box = box.cut(rng.uniform(2.5, 4.5) * em)
        left = box.left if rng.random() < 0.5 else box.left + 0.6 * box.width
        for y in np.arange(address.top + em, address.bottom - 0.5 * em, 1.25 * em):
            sheet.text(left, y, sheet.fit(sheet.words(2), 0.4 * box.width, size), size)
        if rng.random() < 0.6:
            signature = Box(box.left, box.bottom - 2.2 * em, min(box.right, box.left + 8 * em), box.bottom)
            sheet.scrawl(signature, box.bottom - 1.1 * em, 1.3 * em)
            box = box._replace(bottom=signature.top)
    leading, justified = rng.uniform(1.3, 1.8), rng.random() < 0.4
    for column in _split(box, rng.uniform(18, 50) * em, 1.5 * em):
        sheet.prose(column, leading, size, int(rng.integers(4, 11)), justified)


def table(sheet: Sheet, box: Box) -> None:
    """Cells two to five times as wide as high, ruled in both directions, most of them filled."""
    rng, em = sheet.rng, sheet.em
    size, step = sheet.size(0.8), rng.uniform(1.5, 2.4) * em
    columns = max(2, int(box.width / (step * rng.uniform(2, 4.5))))
    rows = max(2, int(box.height / step))
    xs = np.linspace(box.left, box.right, columns + 1)
    ys = np.linspace(box.top, box.top + rows * step, rows + 1)
    if rng.random() < 0.5:
        sheet.frame(Box(box.left, ys[0], box.right, ys[1]), sheet.mix(0.25))
    if rng.random() < 0.4:
        for top, bottom in zip(ys[1::2], ys[2::2], strict=False):
            sheet.frame(Box(box.left, top, box.right, bottom), sheet.mix(0.12))
    ink = sheet.mix(rng.uniform(0.45, 1))
    for x in xs:
        sheet.rule(x, ys[0], x, ys[-1], fill=ink)
    for y in ys:
        sheet.rule(box.left, y, box.right, y, fill=ink)
    worded = rng.random(columns) < 0.4
    for column in range(columns):
        room = xs[column + 1] - xs[column] - 0.6 * em
        for row in range(rows):
            if rng.random() < 0.85:
                text = sheet.words(1) if worded[column] or row == 0 else sheet.number(column % 2 == 0)
                middle = (xs[column] + xs[column + 1]) / 2
                sheet.text(middle, (ys[row] + ys[row + 1]) / 2, sheet.fit(text, room, size), size, "mm")


def form(sheet: Sheet, box: Box) -> None:
    """Small labels with something to fill in: empty boxes, rows of square cells, lines, ticks."""
    rng, em = sheet.rng, sheet.em
    small, step = sheet.size(0.75), rng.uniform(2.7, 3.4) * em
    for column in _split(box, rng.uniform(12, 22) * em, 1.5 * em):
        for y in np.arange(column.top, column.bottom - step + 1, step):
            row = column._replace(top=y, bottom=y + step)
            for field in row.columns(int(rng.integers(1, 3)), em):
                _field(sheet, field, small)


def _field(sheet: Sheet, field: Box, size: int) -> None:
    rng, em = sheet.rng, sheet.em
    label, entry = field.cut(0.9 * em)
    entry = entry._replace(bottom=entry.bottom - 0.6 * em)
    sheet.text(label.left, label.top + 0.45 * em, sheet.fit(sheet.words(2), label.width, size), size)
    side = entry.height
    match rng.integers(4):
        case 0:
            sheet.frame(entry, outline=sheet.ink)
        case 1:
            for i in range(int(entry.width / side)):
                cell = Box(entry.left + i * side, entry.top, entry.left + (i + 1) * side, entry.bottom)
                sheet.frame(cell, outline=sheet.ink)
        case 2:
            sheet.rule(entry.left, entry.bottom, entry.right, entry.bottom)
        case _:
            tick = 0.75 * side
            for x in np.arange(entry.left, entry.right - tick, 5 * em):
                sheet.frame(Box(x, entry.top, x + tick, entry.top + tick), outline=sheet.ink)
                room = min(5 * em - 1.4 * tick, entry.right - x - 1.4 * tick)
                sheet.text(x + 1.3 * tick, entry.top + tick / 2, sheet.fit(sheet.words(1), room, size), size)
    if rng.random() < 0.2:
        sheet.scrawl(entry, entry.top + 0.5 * side, 0.7 * side)


def code(sheet: Sheet, box: Box) -> None:
    """Fixed-pitch lines of uneven indent and length, some words coloured, often numbered."""
    rng, em = sheet.rng, sheet.em
    size, step = sheet.size(rng.uniform(0.75, 0.95)), rng.uniform(1.15, 1.5) * em
    pitch = max(3, round(size * 0.62))
    colors = [sheet.ink, sheet.accent, sheet.mix(0.6)] if rng.random() < 0.7 else [sheet.ink]
    numbered = rng.random() < 0.5
    for column in _split(box, rng.uniform(20, 40) * em, 1.5 * em):
        depth = 0
        for number, y in enumerate(np.arange(column.top + step / 2, column.bottom - step / 3, step)):
            x = column.left
            if numbered:
                sheet.mono(x, y, str(number + 1).rjust(3), size, sheet.mix(0.5))
                x += 4 * pitch
            depth = int(np.clip(depth + rng.integers(-1, 2), 0, 4))
            if rng.random() < 0.12:
                continue
            x += 3 * depth * pitch
            for _ in range(int(rng.integers(1, 6))):
                word = sheet.words(1) + str(rng.choice(_MARKS))
                if x + len(word) * pitch > column.right:
                    break
                sheet.mono(x, y, word, size, colors[rng.integers(len(colors))])
                x += (len(word) + 1) * pitch


_MARKS = ("", " =", "()", "(", ");", " {", "[0]", ":", ".", " ==", ",")


def id_card(sheet: Sheet, box: Box) -> None:
    """A portrait beside labelled values, wavy lines behind, two lines of chevrons below."""
    rng, em = sheet.rng, sheet.em
    for wave in np.arange(box.top, box.bottom, rng.uniform(1.0, 1.8) * em):
        xs = np.arange(box.left, box.right, max(2.0, em / 2))
        ys = wave + 0.6 * em * np.sin(xs / (rng.uniform(2.0, 2.6) * em))
        sheet.draw.line(np.stack([xs, ys], axis=1).ravel().tolist(), sheet.mix(0.22), sheet.hairline)
    zone = min(2.8 * em, 0.25 * box.height)
    upper, lower = box.cut(box.height - zone)
    size = sheet.size(0.9)
    cells = int(lower.width / max(3, round(size * 0.62)))
    for y in (lower.top + 0.3 * zone, lower.top + 0.75 * zone):
        line = sheet.words(max(1, cells // 12)).upper().replace(" ", "<<").ljust(cells, "<")
        sheet.mono(lower.left, y, line[:cells], size)
    height = min(rng.uniform(7, 10) * em, upper.height, 1.3 * 0.5 * upper.width)
    card_width = rng.uniform(2.6, 3.6) * height / 1.3
    for column in _split(upper, card_width, em):
        for top in np.arange(upper.top, upper.bottom - 0.95 * height, height + 0.8 * em):
            _portrait(sheet, Box(column.left, top, column.left + height / 1.3, top + height))
            left, room = column.left + height / 1.3 + 0.8 * em, column.width - height / 1.3 - 0.8 * em
            for y in np.arange(top + 0.5 * em, top + height - em, 2.2 * em):
                sheet.text(
                    left, y, sheet.fit(sheet.words(1), room, sheet.size(0.6)), sheet.size(0.6), fill=sheet.mix(0.7)
                )
                sheet.text(left, y + em, sheet.fit(sheet.words(1).title(), room, sheet.em), sheet.em)


def _portrait(sheet: Sheet, box: Box) -> None:
    middle, skin = (box.left + box.right) / 2, sheet.mix(sheet.rng.uniform(0.45, 0.8))
    sheet.frame(box, sheet.mix(sheet.rng.uniform(0.1, 0.3)), sheet.ink)
    head, shoulder, top = 0.22 * box.width, 0.38 * box.width, box.top + 0.2 * box.height
    sheet.draw.ellipse((middle - head, top, middle + head, top + 2.7 * head), skin)
    bust = (middle - shoulder, box.bottom - 0.28 * box.height, middle + shoulder, box.bottom + 0.25 * box.height)
    sheet.draw.pieslice(bust, 180, 360, skin)


def ticket(sheet: Sheet, box: Box) -> None:
    """Stubs parted by a dotted line, each with a few large values under small labels and upright bars."""
    rng, em = sheet.rng, sheet.em
    height = min(box.height, rng.uniform(9, 13) * em)
    for top in np.arange(box.top, box.bottom - 0.9 * height, height):
        row = Box(box.left, top, box.right, top + height)
        stubs = _split(row, rng.uniform(13, 20) * em, 1.6 * em)
        if top > box.top:
            _perforation(sheet, row.left, top, row.right, top)
        for stub in stubs:
            if stub is not stubs[0]:
                _perforation(sheet, stub.left - 0.8 * em, stub.top, stub.left - 0.8 * em, stub.bottom)
            _stub(sheet, stub.inset(0.5 * em))


def _perforation(sheet: Sheet, x0: float, y0: float, x1: float, y1: float) -> None:
    radius = max(1.0, 0.16 * sheet.em)
    count = max(2, int(max(abs(x1 - x0), abs(y1 - y0)) / (5 * radius)))
    for x, y in zip(np.linspace(x0, x1, count), np.linspace(y0, y1, count), strict=True):
        sheet.draw.ellipse((x - radius, y - radius, x + radius, y + radius), sheet.ink)


def _stub(sheet: Sheet, box: Box) -> None:
    rng, em = sheet.rng, sheet.em
    bars = Box(box.right - 2.2 * em, box.top, box.right, box.bottom)
    if rng.random() < 0.6:
        sheet.barcode(bars, upright=False)
        box = box._replace(right=bars.left - 0.6 * em)
    large = sheet.size(rng.uniform(1.7, 2.4))
    for y in np.arange(box.top, box.bottom - 3 * em, 3.7 * em):
        values = max(1, int(box.width / (5.5 * em)))
        for cell in box.columns(values, 0.5 * em):
            value = f"{rng.choice(list('ABCDEFGH'))}{rng.integers(1, 99)}" if values > 1 else sheet.words(1).upper()
            sheet.text(
                cell.left, y + 0.4 * em, sheet.fit(sheet.words(1), cell.width, sheet.size(0.65)), sheet.size(0.65)
            )
            sheet.text(cell.left, y + 2 * em, sheet.fit(value, cell.width, large), large)


def note(sheet: Sheet, box: Box) -> None:
    """Handwriting over wide lines, on plain, lined or squared paper, with an underline now and then."""
    rng, em = sheet.rng, sheet.em
    step = rng.uniform(1.7, 2.5) * em
    paper = rng.integers(3)
    faint = sheet.mix(0.3)
    if paper == 1:
        for y in np.arange(box.top + 0.95 * step, box.bottom, step):
            sheet.rule(box.left, y, box.right, y, fill=faint)
    elif paper == 2:
        for y in np.arange(box.top, box.bottom, step / 2):
            sheet.rule(box.left, y, box.right, y, fill=faint)
        for x in np.arange(box.left, box.right, step / 2):
            sheet.rule(x, box.top, x, box.bottom, fill=faint)
    for column in _split(box, rng.uniform(18, 40) * em, 1.5 * em):
        for y in np.arange(column.top + step / 2, column.bottom - step / 3, step):
            if rng.random() < 0.1:
                continue
            line = column._replace(right=column.left + column.width * rng.uniform(0.5, 1))
            sheet.scrawl(line, y, em * rng.uniform(0.9, 1.1))
            if rng.random() < 0.1:
                sheet.rule(line.left, y + 0.45 * step, line.right, y + 0.4 * step)


def _split(box: Box, width: float, gap: float) -> list[Box]:
    """Split a region into equal columns of about a width."""
    return box.columns(max(1, round((box.width + gap) / (width + gap))), gap)


BODIES: dict[str, Callable[[Sheet, Box], None]] = {
    "invoice": invoice,
    "receipt": receipt,
    "letter": letter,
    "table": table,
    "form": form,
    "code": code,
    "chart": chart,
    "id-card": id_card,
    "ticket": ticket,
    "note": note,
}
