"""The comparisons once more for a narrow screen: names stand above what they name, and nothing is cut or scrolled."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from markupsafe import Markup

from pmfed_server.report.charts import MANY, Pair, Scale, dot, line, picture, shorten, span, text, x_axis
from pmfed_server.report.figures import FigureRow, interval, number

WIDTH, STEP, TOP = 360.0, 46.0, 8.0
BESIDE = 28  # characters of a name that leave room for its figures


def forest(found: Sequence[FigureRow], label: str, better: str, digits: int, title: str) -> Markup:
    """Return the comparison, each name above its interval; many hospitals alone as their median."""
    alone = [row for row in found if row.kind == "local" and row.value is not None]
    shown = [row for row in found if row.value is not None and not (len(alone) > MANY and row.kind == "local")]
    if len(alone) > MANY:
        middle = statistics.median(row.value or 0.0 for row in alone)
        shown.insert(0, FigureRow("local", f"Median of {len(alone)} hospitals alone", middle))
    values = [v for row in shown for v in (row.value, row.low, row.high)]
    below = 15.0 if any(len(row.label) > BESIDE for row in shown) else 0.0  # figures that would meet a long name
    step = STEP + below
    scale, bottom = Scale(*span(values), 12, WIDTH - 12), TOP + step * len(shown) + 4
    parts = [x_axis(scale, TOP, bottom, f"{label}, {better}", 5)]
    for i, row in enumerate(shown):
        y, value = TOP + step * i, row.value or 0.0
        figure = f"{number(value, digits)}  {interval(row.low, row.high, digits)}".strip()
        parts.append(text(0, y + 15, shorten(row.label, 50 if below else 34), f"label {row.kind}"))
        parts.append(text(WIDTH, y + 15 + below, figure, f"figure small {row.kind}", "end"))
        y += below
        if row.low is not None and row.high is not None:
            parts.append(line(scale(row.low), y + 30, scale(row.high), y + 30, f"interval {row.kind}"))
        parts.append(
            dot(scale(value), y + 30, 6 if row.kind == "federation" else 5, row.kind, f"{row.label}: {figure}")
        )
    words = "; ".join(f"{row.label} {number(row.value, digits)}" for row in shown)
    return picture(WIDTH, bottom + 42, title, f"{label}, drawn for a narrow screen. {words}.", *parts)


def pairs(found: Sequence[Pair], label: str, better: str, digits: int, title: str) -> Markup:
    """Return the per-hospital comparison, each name above its two dots."""
    values = [v for pair in found for row in (pair.alone, pair.together) if row for v in (row.value, row.low, row.high)]
    top = TOP + 26
    scale, bottom = Scale(*span(values), 12, WIDTH - 12), top + STEP * len(found) + 4
    parts = [x_axis(scale, top, bottom, f"{label}, {better}", 5)]
    for x, kind, name in ((4.0, "local", "hospital alone"), (140.0, "federation", "federation")):
        if kind == "federation" or any(pair.alone for pair in found):
            parts += [dot(x + 5, 12, 5, kind, name), text(x + 17, 16.5, name, "key")]
    for i, pair in enumerate(found):
        y = top + STEP * i
        shown = [row for row in (pair.alone, pair.together) if row is not None and row.value is not None]
        parts.append(text(0, y + 15, shorten(pair.label, 34), "label"))
        parts.append(text(WIDTH, y + 15, " → ".join(number(row.value, digits) for row in shown), "figure small", "end"))
        for row, kind, shift in ((pair.alone, "local", -4.0), (pair.together, "federation", 4.0)):
            if row is None or row.value is None:
                continue
            at = y + 30 + shift
            if row.low is not None and row.high is not None:
                parts.append(line(scale(row.low), at, scale(row.high), at, f"interval thin {kind}"))
            parts.append(
                dot(scale(row.value), at, 4.5, kind, f"{pair.label}, {row.label}: {number(row.value, digits)}")
            )
    words = "; ".join(
        f"{pair.label}: "
        + ", ".join(f"{row.label} {number(row.value, digits)}" for row in (pair.alone, pair.together) if row)
        for pair in found
    )
    return picture(WIDTH, bottom + 42, title, f"{label}, drawn for a narrow screen. {words}.", *parts)
