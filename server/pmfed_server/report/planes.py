"""Charts of one number against another: what every threshold would give, and epsilon over who colludes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pmfed_server.report.charts import Scale, dot, el, line, picture, span, text, x_axis, y_axis
from pmfed_server.report.figures import epsilon_text

WIDTH, HEIGHT, LEFT = 360.0, 330.0, 50.0
Points = Sequence[Sequence[float]]


def _plane(
    x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str
) -> tuple[Scale, Scale, list[Markup]]:
    across, up = Scale(*x, LEFT, WIDTH - 12), Scale(*y, HEIGHT - 46, 36)
    return across, up, [y_axis(up, LEFT, WIDTH - 12, y_label), x_axis(across, 36, HEIGHT - 46, x_label, 5)]


def _path(points: Points, x: Scale, y: Scale, kind: str = "curve") -> Markup:
    return el("polyline", points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points), class_=kind)


def roc(points: Points, area: str, people: str) -> Markup:
    """Return the share of events found against the share of others alarmed, over all thresholds."""
    x, y, parts = _plane((0, 1), (0, 1), "1 − specificity", "sensitivity")
    parts += [line(x(0), y(0), x(1), y(1), "guide reference"), _path(points, x, y)]
    if area:
        parts.append(text(WIDTH - 20, HEIGHT - 60, f"AUROC {area}", "figure federation", "end"))
    words = f"ROC curve on held-out {people}, area {area or 'unknown'}; the dashed line is chance."
    return picture(WIDTH, HEIGHT, "ROC", words, *parts)


def precision_recall(points: Points, share: float, area: str, people: str) -> Markup:
    """Return how many of those alarmed have the event against how many events are found."""
    x, y, parts = _plane((0, 1), (0, 1), "recall (sensitivity)", "precision (predictive value)")
    parts += [line(x(0), y(share), x(1), y(share), "guide reference"), _path(points, x, y)]
    if area:
        clear = HEIGHT - 60 if float(points[len(points) // 2][1]) > 0.5 else 52.0  # where the curve is not
        parts.append(text(WIDTH - 20, clear, f"average precision {area}", "figure federation", "end"))
    words = f"Precision against recall on held-out {people}; the dashed line, {share:.3f}, is the share with the event."
    return picture(WIDTH, HEIGHT, "Precision and recall", words, *parts)


def decision(found: dict[str, Any], people: str) -> Markup:
    """Return net benefit over thresholds (Vickers and Elkin 2006): of the model, of treating all, of treating none."""
    model, every, share = found["model"], found["all"], float(found["share"])
    ends = (float(model[0][0]), float(model[-1][0]))
    low, high = -0.25 * share, max(share, *(y for _, y in model)) * 1.1
    x, y, parts = _plane(ends, (low, high), "threshold probability", "net benefit")
    parts += [line(LEFT, y(0), WIDTH - 12, y(0), "guide reference")]
    parts += [_path([point for point in every if point[1] >= low], x, y, "curve plain"), _path(model, x, y)]
    if ends[0] <= found["threshold"] <= ends[1]:
        parts.append(line(x(found["threshold"]), 36, x(found["threshold"]), HEIGHT - 46, "guide"))
    keys = (("curve", "model"), ("curve plain", "act on all"), ("guide reference", "act on none"))
    for place, (kind, name) in enumerate(keys):
        at = 50 + 17 * place
        parts.append(line(WIDTH - 118, at - 4, WIDTH - 96, at - 4, kind))
        parts.append(text(WIDTH - 90, at, name, "key"))
    words = (
        f"Decision curve on held-out {people}, thresholds from {ends[0]:.2g} to {ends[1]:.2g}; the upright line is the "
        f"threshold of the figures, {found['threshold']:.2g}."
    )
    return picture(WIDTH, HEIGHT, "Decision curve", words, *parts)


def colluders(points: Points, allowed: int) -> Markup:
    """Return epsilon over the number of other sites that put together what they know."""
    last = max(1.0, max(t for t, _ in points))
    x, y, parts = _plane((0, last), (0.0, span([e for _, e in points])[1]), "colluding hospitals", "ε at most")
    parts.append(_path(points, x, y))
    for t, epsilon in points:
        chosen = t == allowed
        tip = f"{t:.0f} colluding: ε = {epsilon_text(epsilon)}"
        parts.append(dot(x(t), y(epsilon), 6 if chosen else 3.5, "federation", tip))
        if chosen:
            right = t > last / 2  # below a curve that rises, beside the dot
            at, near = (x(t) - 12, "end") if right else (x(t) + 6, "start")
            parts.append(
                text(at, y(epsilon) + 22, f"ε = {epsilon_text(epsilon)}, the promise", "figure federation", near)
            )
    words = "; ".join(f"{t:.0f} colluding: {epsilon_text(epsilon)}" for t, epsilon in points)
    return picture(WIDTH, HEIGHT, "Epsilon over colluding hospitals", f"{words}.", *parts)
