"""The figures of a run: numbers as people read them, and the rows that are compared.

Everything here reads the one result format (result.json) and nothing else; optional parts that are absent
are left out. Bounds are rounded up, never down: a report may not promise more than was kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]

NONE = "–"
IN_UNITS = frozenset({"mae", "rmse", "medae"})
PROTOCOLS = {
    "holdout": "{people} held out from training",
    "cv": "Cross-validation: every {person} predicted by a model that never saw them",
    "leave-one-site-out": "Leave one site out: every hospital predicted by a model that never saw it",
}


@dataclass(frozen=True)
class FigureRow:
    """One line of the comparison.

    ``kind`` is ``local``, ``federation``, ``no-privacy``, ``pooled``, ``other``, ``reference`` or ``best``;
    ``low`` and ``high`` bound the 95 % interval, ``sd`` is over seeds.
    """

    kind: str
    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    epsilon: float | None = None
    note: str = ""
    difference: tuple[float, float, float] | None = None
    """How much more the federation has, with its interval, paired over hospitals."""


# numbers


def finite(value: Any) -> float | None:
    """Return ``value`` as a float, or None where it is absent or not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number(value: float | None, digits: int) -> str:
    """Return ``value`` with ``digits`` decimals and a true minus sign."""
    if value is None:
        return NONE
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def digits_for(values: Iterable[float | None]) -> int:
    """Return how many decimals suit numbers of this size."""
    top = max((abs(value) for value in values if value is not None), default=0.0)
    return 3 if top <= 1.5 else 2 if top < 100 else 1 if top < 1000 else 0


def interval(low: float | None, high: float | None, digits: int) -> str:
    """Return ``low to high``, or nothing when there is no interval."""
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def up(value: float, digits: int) -> float:
    """Return ``value`` rounded up to ``digits`` decimals: how bounds are rounded."""
    return math.ceil(value * 10.0**digits * (1 - 1e-9) - 1e-9) / 10.0**digits


def epsilon_text(value: float | None) -> str:
    """Return epsilon with at most two decimals, or two digits where it is small, rounded up."""
    if value is None:
        return NONE
    return delta_text(value) if 0 < value < 1e-3 else f"{epsilon_shown(value):.9f}".rstrip("0").rstrip(".")


def epsilon_shown(value: float) -> float:
    """Return the number that `epsilon_text` writes, never below ``value`` but for the last digits of a float."""
    return up(value, 2 if value >= 0.1 or value <= 0 else 1 - math.floor(math.log10(value)))


def delta_text(value: float | None) -> str:
    """Return delta with two digits, rounded up; as a power of ten when small."""
    if value is None or value <= 0:
        return NONE if value is None else "0"
    power = math.floor(math.log10(value) + 1e-9)
    mantissa, exponent = f"{up(value / 10.0**power, 1) * 10.0**power:.1e}".split("e")
    if int(exponent) >= -3:
        return f"{float(mantissa) * 10.0 ** int(exponent):.2g}"
    tens = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return tens if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}×{tens}"


def person(result: Result) -> str:
    """Return what an id of the data stands for: a patient, or what takes a patient's place."""
    return str(result.get("stand_in") or "patient")


def people(result: Result) -> str:
    """Return the same of several, as the heading of a column."""
    return f"{person(result).capitalize()}s"


def protocol(result: Result) -> str:
    """Return how the figures were made, in a line; "" where it is not told."""
    told = str(result.get("protocol") or "")
    return PROTOCOLS.get(told, told).format(people=people(result), person=person(result))


def unit_of(result: Result) -> str:
    """Return what is protected: a record, a patient, or what stands for a patient."""
    return "record" if (result.get("privacy") or {}).get("unit") == "record" else person(result)


def count(value: int | float, thing: str) -> str:
    """Return ``1 hospital``, ``1,204 patients``."""
    return f"{value:,.0f} {thing}" + ("" if round(value) == 1 else "s")


def size(value: float) -> str:
    """Return bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


# the comparison


def metric_name(result: Result) -> str:
    """Return the key of the main metric."""
    return str(result["metric"]["name"])


def metric_label(result: Result, name: str | None = None, unit: bool = True) -> str:
    """Return a metric as people call it, with its unit where it has the outcome's unit."""
    main = result["metric"]
    name = name or main["name"]
    label = main.get("label") if name == main["name"] else (result.get("labels") or {}).get(name)
    text = str(label or name.replace("_", " "))
    return f"{text} ({result['unit']})" if unit and result.get("unit") and name in IN_UNITS else text


def better(result: Result) -> str:
    """Return which way the main metric is better, in words."""
    return "higher is better" if result["metric"].get("higher_is_better", True) else "lower is better"


def site_titles(result: Result) -> dict[str, str]:
    """Return what to call each site, by its name."""
    return {site["name"]: str(site.get("title") or site["name"]) for site in result.get("sites") or ()}


def comparisons(result: Result) -> list[Mapping[str, Any]]:
    """Return what was compared: each hospital alone, then the rest as given; always with the federation."""
    given = list(result.get("comparisons") or ())
    if not any(entry["name"] == "federation" for entry in given):
        privacy = result.get("privacy") or {}
        epsilon = privacy.get("epsilon")
        own = {"name": "federation", "label": "Federation", "private": epsilon is not None, "epsilon": epsilon}
        given.insert(
            0, own | {"metrics": result["metrics"]["test"], "per_site": result["metrics"].get("per_site") or {}}
        )
    return sorted(given, key=lambda entry: not str(entry["name"]).startswith("local:"))


def common_and_own(result: Result) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return site -> metrics of the common model, and of each site's own (none without ``[personal]``).

    Where parts of the model stay at the sites, the run has no common model: the one trained beside it stands for it.
    """
    entries = {str(entry["name"]): entry for entry in comparisons(result)}
    federation = entries["federation"].get("per_site") or (result["metrics"].get("per_site") or {})
    own = (result.get("personal") or {}).get("per_site") or {}
    if keeps_parts(result):
        return (entries.get("global") or {}).get("per_site") or {}, own
    return federation, own


def keeps_parts(result: Result) -> bool:
    """Whether a part of the model stayed at each site, so that no other model was scored."""
    return (result.get("personal") or {}).get("method") in ("head", "norms", "intercept")


def kind_of(entry: Mapping[str, Any]) -> str:
    """Return the kind of a comparison (see `FigureRow`)."""
    name = str(entry["name"])
    return "local" if name.startswith("local:") else name if name in ("federation", "no-privacy", "pooled") else "other"


def rows(result: Result) -> list[FigureRow]:
    """Return the comparison on the main metric, hospitals alone first, published figures last."""
    metric = metric_name(result)
    titles = site_titles(result)
    insecure, found = bool((result.get("privacy") or {}).get("insecure")), []
    for entry in comparisons(result):
        kind, metrics = kind_of(entry), entry.get("metrics") or {}
        label = str(entry.get("label") or entry["name"])
        if kind == "local" and not entry.get("label"):
            site = str(entry["name"]).removeprefix("local:")
            label = f"{titles.get(site, site)} alone"
        value, low, high, sd = (finite(metrics.get(metric + end)) for end in ("", "_low", "_high", "_sd"))
        epsilon = finite(entry.get("epsilon")) if entry.get("private") and not insecure else None
        gap = entry.get("difference") or {}
        parts = [finite(gap.get(key)) for key in ("value", "low", "high")]
        told = None if None in parts else (parts[0] or 0.0, parts[1] or 0.0, parts[2] or 0.0)
        found.append(FigureRow(kind, label, value, low, high, sd, epsilon, difference=told))
    if (constant := no_information(result)) is not None:
        found.append(
            FigureRow("reference", "Commonest class for all", constant, note="what no model at all would reach")
        )
    for entry in result.get("reference") or ():
        note = str(entry.get("source") or "")
        found.append(FigureRow("reference", str(entry["label"]), finite(entry.get("value")), note=note))
    best = finite((result.get("best_possible") or {}).get(metric))
    if best is not None:
        found.append(FigureRow("best", "Best possible", best, note="from the rule that generated the data"))
    return found


def no_information(result: Result) -> float | None:
    """Return the accuracy of saying the commonest class of everybody, where models are compared by their accuracy."""
    return finite(result["metrics"]["test"].get("no_information")) if metric_name(result) == "accuracy" else None


def row_digits(result: Result) -> int:
    """Return the decimals of the main metric, the same everywhere."""
    return digits_for(row.value for row in rows(result))


def best_alone(result: Result) -> FigureRow | None:
    """Return the hospital that does best alone."""
    alone = [row for row in rows(result) if row.kind == "local" and row.value is not None]
    sign = 1 if result["metric"].get("higher_is_better", True) else -1
    return max(alone, key=lambda row: sign * (row.value or 0.0), default=None)
