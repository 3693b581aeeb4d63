"""A result on the terminal: the comparison, and what every hospital spent, as tables of rich."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from pmfed_server.report.figures import (
    NONE,
    FigureRow,
    Result,
    delta_text,
    epsilon_text,
    finite,
    interval,
    metric_label,
    number,
    people,
    row_digits,
    rows,
    site_titles,
)

if TYPE_CHECKING:
    from rich.table import Table


def table(result: Result) -> Table:
    """Return the comparison as a table for the terminal (rich).

    Parameters
    ----------
    result
        The content of result.json.
    """
    from rich.table import Table
    from rich.text import Text

    found, digits = rows(result), row_digits(result)
    alone = [row for row in found if row.kind == "local"]
    if len(alone) > 30:
        found = [*_summary(alone, result), *(row for row in found if row.kind != "local")]
    with_sd = any(row.sd is not None for row in found)
    built = Table(title=Text(str(result.get("title") or result.get("study") or "")), title_justify="left")
    built.add_column("Model", overflow="fold")
    built.add_column(metric_label(result), justify="right", overflow="fold")
    built.add_column("95 % interval", justify="right", overflow="fold")
    if with_sd:
        built.add_column("sd over seeds", justify="right", overflow="fold")
    built.add_column("ε", justify="right", overflow="fold")
    for row, following in zip(found, [*found[1:], None], strict=True):
        cells = [row.label, number(row.value, digits), interval(row.low, row.high, digits) or NONE]
        cells += [number(row.sd, digits)] if with_sd else []
        cells.append(epsilon_text(row.epsilon) if row.epsilon is not None else "none" if _trained(row) else "")
        ends = row.kind == "local" and following is not None and following.kind != "local"
        built.add_row(*map(Text, cells), style="bold" if row.kind == "federation" else "", end_section=ends)
    return built


def _trained(row: FigureRow) -> bool:
    return row.kind not in ("reference", "best")


def _summary(alone: list[FigureRow], result: Result) -> list[FigureRow]:
    valued = sorted((row for row in alone if row.value is not None), key=lambda row: row.value or 0.0)
    if result["metric"].get("higher_is_better", True):
        valued.reverse()
    if not valued:
        return []
    middle = statistics.median(row.value or 0.0 for row in valued)
    return [
        FigureRow(
            "local",
            f"Best of {len(alone)} hospitals alone: {valued[0].label}",
            valued[0].value,
            valued[0].low,
            valued[0].high,
        ),
        FigureRow("local", "Median hospital alone", middle),
        FigureRow("local", f"Weakest: {valued[-1].label}", valued[-1].value, valued[-1].low, valued[-1].high),
    ]


def spending(result: Result) -> Table:
    """Return the epsilon and delta spent at each hospital as a table for the terminal (rich)."""
    from rich.table import Table
    from rich.text import Text

    spent = (result.get("privacy") or {}).get("spent") or {}
    built = Table(title="Privacy spent at each hospital", title_justify="left")
    for name, justify in (
        ("Hospital", "left"),
        (people(result), "right"),
        ("Held out", "right"),
        ("ε", "right"),
        ("ε, all runs", "right"),
        ("δ", "right"),
    ):
        built.add_column(name, justify="left" if justify == "left" else "right", overflow="fold")
    titles = site_titles(result)
    for site in result.get("sites") or ():
        own = spent.get(site["name"]) or {}
        numbers = [NONE if site.get(key) is None else f"{site[key]:,}" for key in ("patients", "held_out")]
        cells = [
            titles[site["name"]],
            *numbers,
            epsilon_text(finite(own.get("epsilon"))),
            epsilon_text(finite(own.get("all_runs"))),
            delta_text(finite(own.get("delta"))),
        ]
        built.add_row(*map(Text, cells))
    return built
