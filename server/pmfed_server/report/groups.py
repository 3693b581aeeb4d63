"""The result by subgroup, and with inputs that are worse: a forest plot and two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmfed_server.report import charts, figures, narrow
from pmfed_server.report.figures import NONE, FigureRow, Result, finite

BESIDE = ("auroc", "sensitivity", "specificity", "oe")


def subgroups(result: Result, digits: int) -> dict[str, Any] | None:
    """Return the figures of each subgroup, for a wide screen, for a narrow one and as a table; None without any."""
    told = result.get("subgroups")
    if not told or not told["by"]:
        return None
    every = f"All held-out {figures.person(result)}s"
    lines = [("federation", every, told["all"]["patients"], told["all"]["metrics"])]
    for grouping in told["by"]:
        lines += [
            ("other", f"{grouping['label']}: {group['name']}", group["patients"], group["metrics"])
            for group in grouping["groups"]
        ]
    metric, label = figures.metric_name(result), figures.metric_label(result)
    beside = [name for name in BESIDE if name != metric and finite(told["all"]["metrics"].get(name)) is not None]
    drawn = [_row(kind, f"{name} ({count:,})", metric, found) for kind, name, count, found in lines]
    title = f"{label} by subgroup"
    said = (drawn, label, figures.better(result), digits, title)
    cells = []
    for kind, name, count, found in lines:
        row = _row(kind, name, metric, found)
        further = [figures.number(finite(found.get(key)), 3) for key in beside]
        spread = figures.interval(row.low, row.high, digits) or NONE
        cells.append((kind, name, f"{count:,}", figures.number(row.value, digits), spread, further))
    return {
        "chart": (charts.forest(*said), narrow.forest(*said)),
        "columns": [figures.metric_label(result, name) for name in beside],
        "lines": cells,
        "hidden": any(not found for *_, found in lines),
    }


def robustness(result: Result, digits: int) -> list[tuple[str, str, str, str]]:
    """Return what altered inputs do to the figures: which, the figure, its interval, and the change."""
    told = result.get("robustness")
    if not told or not told["altered"]:
        return []
    metric, base = figures.metric_name(result), finite(told["unaltered"].get(figures.metric_name(result)))
    lines = [("as they are", told["unaltered"]), *((one["label"], one["metrics"]) for one in told["altered"])]
    found = []
    for label, metrics in lines:
        row = _row("other", label, metric, metrics)
        change = None if row.value is None or base is None or metrics is told["unaltered"] else row.value - base
        signed = "" if change is None else ("+" if change > 0 else "") + figures.number(change, digits)
        spread = figures.interval(row.low, row.high, digits) or NONE
        found.append((label, figures.number(row.value, digits), spread, signed))
    return found


def _row(kind: str, label: str, metric: str, metrics: Mapping[str, Any]) -> FigureRow:
    value, low, high = (finite(metrics.get(metric + end)) for end in ("", "_low", "_high"))
    return FigureRow(kind, label, value, low, high)
