"""Calibration as a drawing: what happened against what was predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pmfed_server.report.charts import Scale, dot, el, line, picture, text, x_axis, y_axis


def wilson(share: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share observed in ``total`` patients."""
    share = min(max(share, 0.0), 1.0)
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration(
    bins: Sequence[dict[str, Any]], title: str, people: str, smooth: Sequence[Mapping[str, float]] = ()
) -> Markup:
    """Return observed against predicted risk per bin with Wilson's interval, and how many patients each bin holds.

    ``smooth`` is the flexible curve with its band, points of ``predicted``, ``observed``, ``low`` and ``high``.
    """
    width, left, side = 470.0, 52.0, 380.0
    found = [(float(b["predicted"]), float(b["observed"]), float(b["count"])) for b in bins]
    # Of patients who left early the rest know less; "effective" says how many complete ones would know as much.
    known = [wilson(float(b["observed"]), float(b.get("effective") or b["count"])) for b in bins]
    highest = max([p for p, _, _ in found] + [high for _, high in known] + [p["high"] for p in smooth], default=1.0)
    top = 1.0 if highest > 0.6 else math.ceil(highest * 10) / 10
    x, y = Scale(0, top, left, left + side), Scale(0, top, 36 + side, 36)
    most, base = max((n for _, _, n in found), default=1.0), 36 + side + 96
    parts = [
        y_axis(y, left, left + side, "observed share"),
        x_axis(x, 36, 36 + side, "predicted probability"),
        line(x(0), y(0), x(top), y(top), "guide reference"),
        text(left + side, base - 36, f"{people} per bin, at most {most:,.0f}", "tick", "end"),
    ]
    if smooth:
        edge = [*((p["predicted"], p["high"]) for p in smooth), *((p["predicted"], p["low"]) for p in reversed(smooth))]
        parts.append(el("polygon", points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in edge), class_="band"))
        path = " ".join(f"{x(p['predicted']):.1f},{y(p['observed']):.1f}" for p in smooth)
        parts.append(el("polyline", points=path, class_="curve"))
    for (predicted, observed, total), (low, high) in zip(found, known, strict=True):
        parts.append(line(x(predicted), y(low), x(predicted), y(high), "interval thin federation"))
        tip = f"predicted {predicted:.2f}, observed {observed:.2f} ({low:.2f} to {high:.2f}), {total:,.0f} {people}"
        parts.append(dot(x(predicted), y(observed), 5, "federation", tip))
        tall = 30 * total / most
        bar = {"x": x(predicted) - 5, "y": base - tall, "width": 10, "height": tall, "class_": "bar"}
        parts.append(el("rect", el("title", tip), **bar))
    parts.append(line(left, base, left + side, base, "base"))
    words = "; ".join(f"predicted {p:.2f}, observed {o:.2f}, {n:.0f} {people}" for p, o, n in found)
    return picture(width, base + 6, title, f"{words}. The dashed line is perfect calibration.", *parts)
