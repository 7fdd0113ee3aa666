"""Charts: axes with ticks around bars, curves or points."""

from __future__ import annotations

import numpy as np

from naflex_deploy.demo.sheet import Box, Color, Sheet


def chart(sheet: Sheet, box: Box) -> None:
    """One or more panels; on long pages they stand side by side or one above the other."""
    across = max(1, round(box.width / max(1.5 * box.height, 16 * sheet.em)))
    down = max(1, round(box.height / max(1.2 * box.width, 14 * sheet.em)))
    for column in box.columns(across, sheet.em):
        step = (column.height + sheet.em) / down
        for row in range(down):
            top = column.top + row * step
            _panel(sheet, column._replace(top=top, bottom=top + step - sheet.em))


def _panel(sheet: Sheet, box: Box) -> None:
    rng, em = sheet.rng, sheet.em
    plot = Box(box.left + 2.2 * em, box.top + 0.5 * em, box.right - 0.3 * em, box.bottom - 1.5 * em)
    small = sheet.size(0.65)
    for y in np.linspace(plot.bottom, plot.top, max(2, int(plot.height / (2.2 * em)))):
        sheet.rule(plot.left - 0.3 * em, y, plot.right if rng.random() < 0.5 else plot.left, y, fill=sheet.mix(0.35))
        sheet.text(plot.left - 0.5 * em, y, sheet.number(False)[:3], small, "rm")
    for x in np.linspace(plot.left, plot.right, max(2, int(plot.width / (4 * em)))):
        sheet.rule(x, plot.bottom, x, plot.bottom + 0.3 * em)
        sheet.text(x, plot.bottom + 0.9 * em, sheet.words(1)[:4], small, "mm")
    sheet.rule(plot.left, plot.top, plot.left, plot.bottom, 2 * sheet.hairline)
    sheet.rule(plot.left, plot.bottom, plot.right, plot.bottom, 2 * sheet.hairline)
    colors = [sheet.accent, sheet.ink, sheet.mix(0.55)]
    marks = (_bars, _curves, _points)[rng.integers(3)]
    marks(sheet, plot, colors[: int(rng.integers(1, 4))])


def _bars(sheet: Sheet, plot: Box, colors: list[Color]) -> None:
    groups = max(2, int(plot.width / (sheet.rng.uniform(1.2, 2.6) * sheet.em * len(colors))))
    for group in plot.columns(groups, 0.25 * plot.width / groups):
        for bar, color in zip(group.columns(len(colors)), colors, strict=True):
            top = plot.bottom - plot.height * sheet.rng.uniform(0.05, 0.95)
            sheet.frame(bar._replace(top=top), color)


def _curves(sheet: Sheet, plot: Box, colors: list[Color]) -> None:
    count = max(4, int(plot.width / sheet.em))
    for color in colors:
        steps = np.cumsum(sheet.rng.normal(0, 1, count))
        heights = 0.08 + 0.84 * (steps - steps.min()) / max(1e-6, np.ptp(steps))
        points = np.stack([np.linspace(plot.left, plot.right, count), plot.bottom - heights * plot.height], axis=1)
        sheet.draw.line(points.ravel().tolist(), color, max(1, sheet.em // 5))


def _points(sheet: Sheet, plot: Box, colors: list[Color]) -> None:
    count, radius = int(plot.width * plot.height / sheet.em**2 / 6) + 8, max(1.5, 0.22 * sheet.em)
    for color in colors:
        xs = sheet.rng.random(count)
        ys = np.clip(xs * sheet.rng.uniform(-1, 1) + 0.5 + sheet.rng.normal(0, 0.2, count), 0.03, 0.97)
        for x, y in zip(plot.left + xs * plot.width, plot.bottom - ys * plot.height, strict=True):
            sheet.draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
