"""Charts as inline SVG: small functions, no script, no dependency; colours come from the page's style sheet.

Every chart has a title and a description for screen readers, axes with units, and marks that name their value when
pointed at. Text is escaped by `markupsafe`, so a site may be called anything.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from markupsafe import Markup, escape

from pmfed_server.report.figures import FigureRow, interval, number

MANY = 8  # more hospitals alone than this share one line


@dataclass(frozen=True)
class Scale:
    """A linear map from ``low..high`` to the pixels ``start..end``; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __post_init__(self) -> None:
        if not self.high > self.low:  # all values are one
            object.__setattr__(self, "high", self.low + (abs(self.low) or 1.0))

    def __call__(self, value: float) -> float:
        """Return the pixel of ``value``."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return at most ``most`` round numbers on the scale."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-6)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-6) + 1)]


def span(values: Sequence[float | None], pad: float = 0.06) -> tuple[float, float]:
    """Return a range that holds ``values`` with some air, never past 0 or 1 when all of them lie between."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    air = (high - low) * pad or abs(high) * 0.1 or 0.5
    inside = low >= 0 and high <= 1
    return max(low - air, 0.0) if low >= 0 else low - air, min(high + air, 1.0) if inside and high < 1 else high + air


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Return a tick's label with as many decimals as the step between ticks needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0
    digits = next((d for d in range(6) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 6)
    return number(value, digits)


def el(name: str, *children: object, **attributes: object) -> Markup:
    """Return an SVG element; attribute names are written with ``_`` for ``-``, values and text are escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), round(value, 2) if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", **more: object) -> Markup:
    """Return a line of text."""
    return el("text", words, x=x, y=y, class_=kind or None, text_anchor=anchor if anchor != "start" else None, **more)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def dot(x: float, y: float, radius: float, kind: str, tip: str) -> Markup:
    """Return a mark that says its value when pointed at."""
    return el("circle", el("title", tip), cx=x, cy=y, r=radius, class_=f"dot {kind}")


def picture(width: float, height: float, title: str, description: str, *children: Markup) -> Markup:
    """Return the drawing with its text alternative."""
    key = f"{crc32((title + description).encode()):x}"
    return el(
        "svg",
        el("title", title, id=f"chart-{key}-title"),
        el("desc", description, id=f"chart-{key}-text"),
        *children,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_labelledby=f"chart-{key}-title chart-{key}-text",
        class_="wide" if width > 800 else "middle" if width > 480 else "narrow",
    )


def shorten(words: str, most: int) -> str:
    """Return ``words``, cut with an ellipsis when longer than ``most`` characters."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def x_axis(scale: Scale, top: float, bottom: float, label: str, most: int = 6) -> Markup:
    """Return grid lines, tick labels and the axis title below."""
    ticks = scale.ticks(most)
    parts = [line(scale(tick), top, scale(tick), bottom, "grid") for tick in ticks]
    parts += [text(scale(tick), bottom + 17, tick_text(tick, ticks), "tick", "middle") for tick in ticks]
    parts.append(text((scale.start + scale.end) / 2, bottom + 36, label, "axis", "middle"))
    return Markup("").join(parts)


def y_axis(scale: Scale, left: float, right: float, label: str, most: int = 5) -> Markup:
    """Return grid lines, tick labels and the axis title above, where it reads without turning the head."""
    ticks = scale.ticks(most)
    parts = [line(left, scale(tick), right, scale(tick), "grid") for tick in ticks]
    parts += [text(left - 8, scale(tick) + 4, tick_text(tick, ticks), "tick", "end") for tick in ticks]
    parts.append(text(0, scale.end - 14, label, "axis"))
    return Markup("").join(parts)


def forest(found: Sequence[FigureRow], label: str, better: str, digits: int, title: str) -> Markup:
    """Return the comparison as dots with intervals, the numbers at the right; many hospitals alone share one line."""
    alone = [row for row in found if row.kind == "local" and row.value is not None]
    many = len(alone) > MANY
    shown: list[FigureRow | None] = [None] if many else []
    shown += [row for row in found if row.value is not None and not (many and row.kind == "local")]
    values = [v for row in found for v in (row.value, *(() if many and row.kind == "local" else (row.low, row.high)))]
    names = [f"Each of {len(alone)} hospitals alone" if row is None else row.label for row in shown]
    left = min(300.0, 24 + 7.4 * max(map(len, names), default=10))
    scale, step, top = Scale(*span(values), left, 680), 32.0, 12.0
    bottom = top + step * len(shown) + 6
    parts = [x_axis(scale, top - 6, bottom, f"{label}, {better}", 8)]
    for i, (row, name) in enumerate(zip(shown, names, strict=True)):
        y = top + step * (i + 0.5)
        kind = "local" if row is None else row.kind
        parts.append(text(left - 16, y + 4.5, shorten(name, 38), f"label {kind}", "end"))
        if row is None:
            middle = statistics.median(other.value or 0.0 for other in alone)
            for j, other in enumerate(alone):
                tip = f"{other.label}: {number(other.value, digits)}"
                parts.append(dot(scale(other.value or 0.0), y + (j % 3 - 1) * 5, 4, "local many", tip))
            parts.append(line(scale(middle), y - 12, scale(middle), y + 12, "median"))
            parts.append(text(696, y + 4.5, f"{number(middle, digits)}", "figure"))
            parts.append(text(752, y + 4.5, "median", "spread"))
            continue
        value = row.value or 0.0
        spread = interval(row.low, row.high, digits)
        if kind in ("reference", "best", "federation"):
            parts.append(line(scale(value), top - 6, scale(value), bottom, f"guide {kind}"))
        if row.low is not None and row.high is not None:
            parts.append(line(scale(row.low), y, scale(row.high), y, f"interval {kind}"))
        tip = f"{row.label}: {number(value, digits)}" + (f" ({spread})" if spread else "")
        parts.append(dot(scale(value), y, 6 if kind == "federation" else 5, kind, tip))
        parts.append(text(696, y + 4.5, number(value, digits), f"figure {kind}"))
        parts.append(text(752, y + 4.5, spread, "spread"))
    words = "; ".join(
        f"{row.label} {number(row.value, digits)} {interval(row.low, row.high, digits)}".strip() for row in found
    )
    return picture(880, bottom + 46, title, f"{label}. {words}.", *parts)


@dataclass(frozen=True)
class Pair:
    """One hospital: the model it would have alone, and the federation's, on its own held-out patients."""

    label: str
    alone: FigureRow | None
    together: FigureRow | None
    patients: int | None


def pairs(found: Sequence[Pair], label: str, better: str, digits: int, title: str) -> Markup:
    """Return the per-hospital comparison: two dots with intervals per hospital."""
    values = [v for pair in found for row in (pair.alone, pair.together) if row for v in (row.value, row.low, row.high)]
    counted = any(pair.patients is not None for pair in found)
    left = min(300.0, 24 + 7.4 * max(len(pair.label) for pair in found)) + (56 if counted else 0)
    scale, step, top = Scale(*span(values), left, 740), 30.0 if len(found) <= 12 else 24.0, 40.0
    bottom = top + step * len(found)
    parts = [x_axis(scale, top - 4, bottom, f"{label}, {better}", 8)]
    for x, kind, name in ((left, "local", "hospital alone"), (left + 130, "federation", "federation")):
        if any(pair.alone for pair in found) or kind == "federation":
            parts += [dot(x + 5, 14, 5, kind, name), text(x + 17, 18.5, name, "key")]
    parts.append(text(left - 16, 18.5, "held out", "tick", "end") if counted else Markup(""))
    for i, pair in enumerate(found):
        y = top + step * (i + 0.5)
        parts.append(text(left - 16 - (56 if counted else 0), y + 4.5, shorten(pair.label, 38), "label", "end"))
        if pair.patients is not None:
            parts.append(text(left - 16, y + 4.5, f"{pair.patients:,}", "tick", "end"))
        for row, kind, shift in ((pair.alone, "local", -4.5), (pair.together, "federation", 4.5)):
            if row is None or row.value is None:
                continue
            if row.low is not None and row.high is not None:
                parts.append(line(scale(row.low), y + shift, scale(row.high), y + shift, f"interval thin {kind}"))
            tip = f"{pair.label}, {row.label}: {number(row.value, digits)} {interval(row.low, row.high, digits)}"
            parts.append(dot(scale(row.value), y + shift, 4.5, kind, tip.strip()))
    last = 752.0
    for i, pair in enumerate(found):
        y = top + step * (i + 0.5) + 4.5
        if pair.alone and pair.together:
            shown = (number(row.value, digits) for row in (pair.alone, pair.together))
            parts.append(text(last, y, " → ".join(shown), "spread"))
        elif pair.together:
            parts.append(text(last, y, number(pair.together.value, digits), "figure"))
    words = "; ".join(
        f"{pair.label}: "
        + ", ".join(f"{row.label} {number(row.value, digits)}" for row in (pair.alone, pair.together) if row)
        for pair in found
    )
    return picture(880, bottom + 46, title, f"{label}. {words}.", *parts)


def curve(
    series: Sequence[Sequence[tuple[float, float]]],
    y_label: str,
    digits: int,
    title: str,
    target: tuple[float, str] | None = None,
    last: str = "",
) -> Markup:
    """Return lines over the rounds of training, with a dashed line at ``target`` when there is one."""
    width, height, left = 430.0, 290.0, 52.0
    points = [point for one in series for point in one]
    low, high = span([y for _, y in points], 0.12)
    if target:
        low, high = 0.0, max(target[0], *(y for _, y in points)) * 1.12
    x = Scale(0, max(1.0, *(x for x, _ in points)), left, width - 18)
    y = Scale(low, high, height - 46, 36)
    parts = [y_axis(y, left, width - 18, y_label), x_axis(x, height - 46, height - 46, "round")]
    if target:
        parts.append(line(left, y(target[0]), width - 18, y(target[0]), "guide reference"))
        parts.append(text(left + 6, y(target[0]) - 7, target[1], "key"))
    for one in series:
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one)
        parts.append(el("polyline", points=path, class_="curve" if len(series) == 1 else "curve several"))
        if len(one) <= 40 and len(series) == 1:
            parts += [dot(x(a), y(b), 3, "federation", f"round {a:.0f}: {number(b, digits)}") for a, b in one]
    end = series[-1][-1]
    above = end[1] < (y.low + y.high) / 2
    parts.append(dot(x(end[0]), y(end[1]), 5, "federation", f"round {end[0]:.0f}: {number(end[1], digits)}"))
    shown = last or number(end[1], digits)
    parts.append(text(x(end[0]), y(end[1]) + (-16 if above else 32), shown, "figure federation", "end"))
    words = f"{y_label} over {end[0]:.0f} rounds, from {number(series[-1][0][1], digits)} to {shown}."
    return picture(width, height, title, words, *parts)


def survival(groups: Sequence[dict[str, Any]], unit: str, horizon: float, title: str) -> Markup:
    """Return Kaplan-Meier curves of groups by rising predicted risk, with a dashed line at the horizon."""
    width, height, left = 470.0, 330.0, 52.0
    last = max(point[0] for group in groups for point in group["points"])
    x, y = Scale(0, max(last, horizon), left, width - 18), Scale(0, 1, height - 46, 36)
    of = f" ({unit})" if unit else ""
    parts = [
        y_axis(y, left, width - 18, "share without the event"),
        x_axis(x, 36, height - 46, f"time{of}"),
        line(x(horizon), 36, x(horizon), height - 46, "guide reference"),
    ]
    told = []
    for place, group in enumerate(groups):
        points = [(float(time), float(alive)) for time, alive in group["points"]]
        corners = [points[0]]
        for time, alive in points[1:]:
            corners += [(time, corners[-1][1]), (time, alive)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in corners)
        said = f"predicted risk {group['predicted']:.2f}, {group['count']:,.0f} patients"
        share = (place + 1) / len(groups)
        drawn = {"class_": "curve", "stroke_opacity": 0.25 + 0.75 * share}
        parts.append(el("polyline", el("title", said), points=path, **drawn))
        where = height - 56 - 17 * (len(groups) - 1 - place)
        parts.append(el("polyline", points=f"{left + 8},{where - 4} {left + 30},{where - 4}", **drawn))
        parts.append(text(left + 38, where, said, "key"))
        told.append(f"{said}: {points[-1][1]:.2f} without the event after {points[-1][0]:g} {unit}".rstrip())
    return picture(width, height, title, "; ".join(told) + ".", *parts)


def density(edges: Sequence[float], counts: Sequence[Sequence[float]], unit: str, title: str, people: str) -> Markup:
    """Return predicted against true outcome as a map of counts (``counts[predicted][true]``) with the identity line."""
    width, left, side = 470.0, 52.0, 380.0
    x, y = Scale(edges[0], edges[-1], left, left + side), Scale(edges[0], edges[-1], 36 + side, 36)
    most = max((n for column in counts for n in column), default=0) or 1
    of = f" ({unit})" if unit else ""
    cells = []
    for i, column in enumerate(counts):
        for j, n in enumerate(column):
            if n < 0.5:
                continue
            box = {"x": x(edges[j]), "y": y(edges[i + 1]), "width": x(edges[j + 1]) - x(edges[j])}
            tip = f"true {edges[j]:g} to {edges[j + 1]:g}, predicted {edges[i]:g} to {edges[i + 1]:g}"
            tip += f": {n:,.0f} {people}"
            height, shade = y(edges[i]) - y(edges[i + 1]), 0.08 + 0.92 * math.sqrt(n / most)
            cells.append(el("rect", el("title", tip), class_="cell", height=height, fill_opacity=shade, **box))
    near = sum(n for i, c in enumerate(counts) for j, n in enumerate(c) if abs(i - j) <= 1 and n > 0)
    total = sum(n for c in counts for n in c if n > 0) or 1
    base = 36 + side + 62
    key = [
        el("rect", x=left + 98 + 13 * i, y=base - 10, width=13, height=10, class_="cell", fill_opacity=shade)
        for i, shade in enumerate((0.08, 0.2, 0.31, 0.43, 0.54, 0.66, 0.77, 0.89, 1.0))
    ]
    parts = [
        y_axis(y, left, left + side, f"predicted{of}", 6), x_axis(x, 36, 36 + side, f"true{of}"), *cells,
        line(x(edges[0]), y(edges[0]), x(edges[-1]), y(edges[-1]), "guide reference"),
        *key, text(left + 90, base, f"1 {people[:-1]}", "tick", "end"),
        text(left + 224, base, f"{most:,.0f} {people} per cell", "tick"),
    ]  # fmt: skip
    words = f"{total:,.0f} {people}; {near / total:.0%} lie within one cell of the line of equality."
    return picture(width, base + 8, title, words, *parts)


def confusion(classes: Sequence[str], counts: Sequence[Sequence[float]], title: str, people: str) -> Markup:
    """Return the confusion matrix (``counts[true][predicted]``), shaded by the share of the true class."""
    names = [shorten(str(name), 22) for name in classes]
    longest = max(map(len, names))
    left, cell = 20 + 7.2 * longest, max(26.0, min(48.0, 380 / len(names)))
    slanted = longest * 7.2 > cell
    top, side = 44 + (5.2 * longest if slanted else 4), cell * len(names)
    parts = [text(0, 14, "true class, down; predicted class, across", "axis")]
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        parts.append(text(left - 10, top + middle + 4.5, name, "label", "end"))
        turn = f"rotate(-40 {left + middle:.0f} {top - 8:.0f})" if slanted else None
        parts.append(text(left + middle, top - 8, name, "label", "start" if slanted else "middle", transform=turn))
    for i, found in enumerate(counts):
        total = sum(max(0.0, n) for n in found) or 1
        for j, n in enumerate(found):
            box = {"x": left + j * cell, "y": top + i * cell, "width": cell - 2, "height": cell - 2, "rx": 3}
            tip = f"{classes[i]}, predicted {classes[j]}: {n:,.0f} of {total:,.0f}"
            share = max(0.0, n) / total
            kind = "cell" if i == j else "cell wrong"
            parts.append(el("rect", class_="empty", **box))
            parts.append(el("rect", el("title", tip), class_=kind, fill_opacity=share, **box))
            if n >= 0.5 and len(names) <= 20:
                on = "count on-full" if share > 0.55 else "count"
                parts.append(text(left + (j + 0.5) * cell - 1, top + (i + 0.5) * cell + 3.5, f"{n:,.0f}", on, "middle"))
    right = sum(row[i] for i, row in enumerate(counts))
    words = f"{right:,.0f} of {sum(map(sum, counts)):,.0f} {people} are in their true class: " + "; ".join(
        f"{name} {row[i]:,.0f} of {sum(row):,.0f}" for i, (name, row) in enumerate(zip(classes, counts, strict=True))
    )
    width = max(left + side + (5.2 * longest if slanted else 8), 430)
    return picture(width, top + side + 8, title, words, *parts)
