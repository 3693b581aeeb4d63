"""The result at each hospital: of the federation, of the model it would have alone, and of another one like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmfed_server.report import charts, figures, narrow
from pmfed_server.report.figures import Result, finite

MOST_HOSPITALS = 40


def across(result: Result, digits: int) -> str:
    """Say what hospitals like these may expect, from the spread between those there are."""
    told = result.get("across_sites")
    if not told:
        return ""
    label = figures.metric_label(result)
    mean, low, high, least, most = (
        figures.number(finite(told[key]), digits) for key in ("mean", "low", "high", "predicted_low", "predicted_high")
    )
    left_out = f" ({told['left_out']} could not tell)" if told.get("left_out") else ""
    return (
        f"Over {figures.count(told['sites'], 'hospital')}{left_out} as a sample of such hospitals, {label} is {mean} "
        f"(95 % interval {low} to {high}); at another one like them it would lie between {least} and {most} "
        "(95 % prediction interval, random effects)."
    )


def hospitals(result: Result, digits: int) -> dict[str, Any] | None:
    """Return federation against hospital alone on each hospital's own held-out patients, and what each spent."""
    metric, spent = figures.metric_name(result), (result.get("privacy") or {}).get("spent") or {}
    entries = {str(entry["name"]): entry for entry in figures.comparisons(result)}
    together, own_models = figures.common_and_own(result)
    lines, drawn = [], []
    for site in result.get("sites") or ():
        name, label = site["name"], figures.site_titles(result)[site["name"]]
        alone, private = (
            (entries.get(f"{kind}:{name}") or {}).get("per_site") or {} for kind in ("local", "local-private")
        )
        pair = charts.Pair(
            label,
            _at("alone", alone.get(name), metric),
            _at("federation", together.get(name), metric),
            site.get("held_out"),
        )
        own = spent.get(name) or {}
        lines.append(
            {
                "label": label,
                "patients": "" if site.get("patients") is None else f"{site['patients']:,}",
                "held_out": "" if site.get("held_out") is None else f"{site['held_out']:,}",
                "alone": _cell(pair.alone, digits),
                "alone_private": _cell(_at("alone", private.get(name), metric), digits),
                "together": _cell(pair.together, digits),
                "personal": _cell(_at("personal", own_models.get(name), metric), digits),
                "epsilon": figures.epsilon_text(finite(own.get("epsilon"))) if own else "",
                "delta": figures.delta_text(finite(own.get("delta"))) if own else "",
            }
        )
        if pair.alone or pair.together:
            drawn.append(pair)
    if not lines:
        return None
    names = {
        "patients": figures.people(result), "held_out": "Held out", "alone": "Alone", "alone_private": "Alone, same ε",
        "together": "Common model" if any(line["personal"] for line in lines) else "Federation",
        "personal": "Its own model", "epsilon": "ε spent", "delta": "δ",
    }  # fmt: skip
    drawn = sorted(drawn, key=lambda pair: -(pair.patients or 0))
    label = figures.metric_label(result)
    title = f"{label} on each hospital's own held-out {figures.person(result)}s"
    told = (drawn[:MOST_HOSPITALS], label, figures.better(result), digits, title)
    return {
        "lines": lines,
        "people": figures.people(result),
        "columns": {key: name for key, name in names.items() if any(line[key] for line in lines)},
        "chart": [module.pairs(*told) for module in (charts, narrow)] if drawn else None,
        "left_out": max(0, len(drawn) - MOST_HOSPITALS),
    }


def _at(label: str, metrics: Mapping[str, Any] | None, metric: str) -> figures.FigureRow | None:
    if not metrics or finite(metrics.get(metric)) is None:
        return None
    value, low, high = (finite(metrics.get(metric + end)) for end in ("", "_low", "_high"))
    return figures.FigureRow(label, label, value, low, high)


def _cell(row: figures.FigureRow | None, digits: int) -> str:
    if row is None:
        return ""
    spread = figures.interval(row.low, row.high, digits)
    return figures.number(row.value, digits) + (f" ({spread})" if spread else "")
