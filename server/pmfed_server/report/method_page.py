"""RUN/report.html of a method that predicts nothing: its sections, what is promised, the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from pmfed.file_io import replace_file
from pmfed.methods import method_class
from pmfed.methods.method import Section
from pmfed_server.report.charts import Scale, el, picture, span, text, x_axis, y_axis
from pmfed_server.report.figures import delta_text, epsilon_text, finite
from pmfed_server.report.pages import page_of
from pmfed_server.report.promise import ceiling, percent_up


def write_method_report(run: Path, result: Mapping[str, Any]) -> None:
    """Write the report of a run whose method shows itself in sections."""
    privacy = result["privacy"]
    content = {
        "title": str(result["title"]),
        "study": str(result["study"]),
        "created": str(result["created"]).replace("T", " ")[:16],
        "insecure": bool(privacy["insecure"]),
        "stand_in": str(result.get("stand_in") or ""),
        "headline": headline(result),
        "sections": [_drawn(section) for section in _sections(result)],
        "statement": statement(privacy),
        "queries": privacy["queries"],
        "sites": [site["name"] for site in result["sites"]],
        "refused": sorted({**result["refused"], **result["left"]}.items()),
        "secure": bool(result["secure_aggregation"]),
        "fingerprint": str(result["fingerprint"]),
        "versions": sorted((str(key), str(value)) for key, value in result["versions"].items()),
    }
    replace_file(run / "report.html", page_of("method.html.j2", content))


def show_sections(result: Mapping[str, Any], console: Console) -> None:
    """Print the sections of a result on a terminal."""
    for section in _sections(result):
        table = Table(title=section.title, title_justify="left", box=None, pad_edge=False)
        for place, column in enumerate(section.columns):
            table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
        console.print(section.note, style="dim")
    for sentence in headline(result):
        console.print(sentence)


def headline(result: Mapping[str, Any]) -> list[str]:
    """Return who answered what, and what it cost in privacy."""
    many = len(result["sites"])
    hospitals = f"{many} hospital{'s' * (many != 1)}"
    privacy = result["privacy"]
    epsilon = finite(privacy["epsilon"])
    said = f"{hospitals} answered together; each kept its own records."
    if epsilon is None or privacy["insecure"]:
        return [said, "Nothing hides whether a patient was among them: this run keeps no privacy promise."]
    return [
        said,
        f"Every patient is protected with ε = {epsilon_text(epsilon)} and δ = {delta_text(finite(privacy['delta']))}.",
    ]


def statement(privacy: Mapping[str, Any]) -> list[str]:
    """Return what is promised to a patient, in sentences."""
    epsilon, delta = finite(privacy["epsilon"]), float(privacy["delta"])
    if privacy["insecure"]:
        return ["This run keeps no promise. Its noise followed a known seed. Never run it on real patients."]
    if epsilon is None:
        return ["This run added no noise: it promises nothing about any patient. Do not share what it found."]
    most = percent_up(ceiling(epsilon, delta))
    seen = (privacy["epsilon_collusion"] or {}).get("others")
    others = "" if finite(seen) is None else f" All other hospitals together: ε = {epsilon_text(finite(seen))}."
    return [
        f"One patient more or less changes what anyone can read here so little that nobody, whatever else they know, is right "
        f"more often than {most} when they guess from a coin toss whether a patient was among those counted.",
        f"This holds against whoever gets these numbers and against {privacy['colluders']} of the hospitals together with "
        f"the coordinator.{others}",
        "Counts are not exact on purpose: they carry the noise that makes this promise.",
    ]


def _sections(result: Mapping[str, Any]) -> list[Section]:
    return method_class(str(result["method"])).sections(result)


def _drawn(section: Section) -> dict[str, Any]:
    chart = _steps(section) if section.curves else None
    return {
        "title": section.title,
        "note": section.note,
        "columns": section.columns,
        "rows": section.rows,
        "chart": chart,
    }


def _steps(section: Section) -> Markup:
    """Return step curves, each named in the key below: solid, dashed, dotted."""
    width, height, left = 560.0, 340.0 + 18 * len(section.curves), 56.0
    low, high = span([x for points in section.curves.values() for x, _ in points], 0.0)
    x, y = Scale(low, high, left, width - 14), Scale(0.0, 1.0, 290, 24)
    parts = [y_axis(y, left, width - 14, section.y_label), x_axis(x, 24, 290, section.x_label)]
    told = []
    for place, (name, points) in enumerate(section.curves.items()):
        corners = _corners(points)
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in corners)
        dashes = ("none", "7 4", "2 4", "9 3 2 3")[place % 4]
        opacity = 1.0 - 0.55 * (place // 4) / max(1, len(section.curves) // 4)
        drawn = {"class_": "curve", "stroke_dasharray": dashes, "stroke_opacity": opacity}
        parts.append(el("polyline", el("title", name), points=path, **drawn))
        where = 346 + 18 * place
        parts.append(el("polyline", points=f"{left},{where - 4} {left + 34},{where - 4}", **drawn))
        parts.append(text(left + 42, where, name, "key"))
        told.append(f"{name}: {points[-1][1]:.2f} at {points[-1][0]:g}")
    return picture(width, height, section.title, "; ".join(told), *parts)


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    corners = [points[0]]
    for at, value in points[1:]:
        corners += [(at, corners[-1][1]), (at, value)]
    return corners
