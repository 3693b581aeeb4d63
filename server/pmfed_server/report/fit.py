"""How predictions agree with the truth: calibration, what every threshold gives, all further measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pmfed_server.report import agreement, charts, figures, planes
from pmfed_server.report.figures import Result, finite


def thresholds(result: Result, curves: Mapping[str, Any]) -> list[tuple[str, Markup, str]]:
    """Return the charts of what every threshold would give: caption, drawing, how to read it."""
    if not curves.get("roc"):
        return []
    test, people = result["metrics"]["test"], f"{figures.person(result)}s"
    area, precision = (
        "" if finite(test.get(name)) is None else figures.number(finite(test[name]), 3) for name in ("auroc", "auprc")
    )
    found = curves["decision"]
    told = [
        ("ROC", planes.roc(curves["roc"], area, people), "The dashed line is chance."),
        (
            "Precision and recall",
            planes.precision_recall(curves["precision_recall"], float(found["share"]), precision, people),
            f"The dashed line is the share of {people} with the outcome: what chance would reach.",
        ),
    ]
    if len(found["model"]) > 1:
        note = (
            f"Net benefit per {figures.person(result)}: events found, less false alarms weighed by the odds of the "
            "threshold. A model helps where it lies above both other lines."
        )
        told.append(("Decision curve", planes.decision(found, people), note))
    return told


def fit(result: Result, curves: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how predictions agree with the truth: the chart that suits the task, and how to read it."""
    bins = [found for found in curves.get("calibration") or () if finite(found.get("count")) and found["count"] >= 1]
    people = f"{figures.person(result)}s"
    if curves.get("survival"):
        return _survival(result, curves["survival"], bins)
    if bins:
        smooth = curves.get("calibration_curve") or ()
        return {
            "title": "Predicted against observed",
            "chart": agreement.calibration(bins, f"Calibration on held-out {people}", people, smooth),
            "note": f"Dots on the dashed line mean that of the {people} given a risk of 20 %, 20 % had the outcome. "
            "Lines are 95 % intervals (Wilson)."
            + (" They do not count the noise of the release." if _noised(result) else "")
            + (" The curve is a regression on a spline of the risk, its band a bootstrap of 95 %." if smooth else ""),
        }
    if curves.get("predicted_true"):
        found = curves["predicted_true"]
        chart = charts.density(
            found["edges"], found["counts"], str(result.get("unit") or ""), "Predicted against true values", people
        )
        return {
            "title": "Predicted against true",
            "chart": chart,
            "note": f"Each cell counts held-out {people}; on the dashed line the prediction equals the truth.",
        }
    if curves.get("confusion"):
        found = curves["confusion"]
        return {
            "title": "Predicted against true class",
            "chart": charts.confusion(
                found["classes"], found["counts"], f"Confusion matrix on held-out {people}", people
            ),
            "note": f"Numbers are held-out {people}; the stronger a colour, the larger the share of the true class.",
        }
    return None


def _survival(result: Result, found: Mapping[str, Any], bins: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what became of patients by predicted risk, and calibration at the horizon where it can be told."""
    unit, horizon = str(result.get("unit") or ""), float(found["horizon"])
    by = f"{horizon:g} {unit}".strip()
    chart = charts.survival(found["groups"], unit, horizon, "Held-out patients by predicted risk")
    note = (
        f"Held-out patients in three groups by predicted risk by {by} (the dashed line): Kaplan-Meier curves, as far as a "
        "twentieth of the group is still watched. The further apart, the better the model tells them from each other."
    )
    if bins:
        chart = charts.el(
            "div", chart, agreement.calibration(bins, f"Calibration at {by}", "patients")
        )  # one below the other
        note += (
            f" Below, the risk by {by} in five groups: dots on the dashed line mean that as many had the event as were "
            "predicted to. What patients who left would have had is Kaplan-Meier's; lines are 95 % intervals."
        )
    return {"title": "Predicted against observed", "chart": chart, "note": note + (_noised(result) and " Noised.")}


def _noised(result: Result) -> str:
    return "yes" if (result.get("privacy") or {}).get("evaluation_release") == "private" else ""


def further(result: Result) -> dict[str, Any] | None:
    """Return the other metrics, a column for each model that learned from more than one hospital."""
    columns = [entry for entry in figures.comparisons(result) if figures.kind_of(entry) != "local"]
    columns = [entry for entry in columns if not str(entry["name"]).startswith("local")]
    columns.sort(key=lambda entry: entry["name"] != "federation")
    own = columns[0].get("metrics") or {}
    tests = [entry.get("metrics") or {} for entry in columns]
    names = list(dict.fromkeys(key for test in tests for key in test))
    main, ends = figures.metric_name(result), ("_low", "_high", "_sd")
    lines = []
    for name in names:
        base = next((name.removesuffix(end) for end in ends if name.endswith(end)), name)
        values = [finite(test.get(name)) for test in tests]
        if name == main or (base != name and base in names) or all(value is None for value in values):
            continue
        digits = figures.digits_for(values)
        spread = figures.interval(finite(own.get(f"{name}_low")), finite(own.get(f"{name}_high")), digits)
        cells = [figures.number(value, digits) for value in values]
        lines.append((figures.metric_label(result, name), spread, cells))
    if not lines:
        return None
    return {"columns": [str(entry.get("label") or entry["name"]) for entry in columns], "lines": lines}
