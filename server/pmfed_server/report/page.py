"""RUN/report.html: one file that stands alone, no network, no script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pmfed.plain import plain_tree
from pmfed_server.report import charts, figures, narrow, planes, words
from pmfed_server.report.design import MOST, flow
from pmfed_server.report.figures import Result, finite

if TYPE_CHECKING:
    from jinja2 import Template

MOST_HOSPITALS = 40


def write_report(run: Path, result: dict[str, Any], rounds: list[dict[str, Any]], curves: dict[str, Any]) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    run
        Folder of the run; the report becomes ``run / "report.html"``, replaced as a whole or not at all.
    result
        The content of result.json. What is optional there may be missing.
    rounds
        The lines of metrics.jsonl: ``round``, ``epsilon``, and ``metrics`` where a round was evaluated.
    curves
        ``{"calibration": [{"predicted", "observed", "count"}]}``, with survival also ``{"survival": {"horizon",
        "groups": [{"predicted", "count", "points"}]}}``, ``{"predicted_true": {"edges", "counts"}}`` with
        ``counts[predicted][true]``, ``{"confusion": {"classes", "counts"}}`` with ``counts[true][predicted]``, or
        none of them.

    Returns
    -------
    Path
        The file written.
    """
    html = _template().render(**content(plain_tree(result), plain_tree(rounds), plain_tree(curves)))
    target, draft = run / "report.html", run / "report.html.part"
    draft.write_text(html, encoding="utf-8")
    os.replace(draft, target)
    return target


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return pages.get_template("template.html.j2")


def content(result: Result, rounds: Sequence[Mapping[str, Any]], curves: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything the template shows, as text and drawings."""
    privacy = result.get("privacy") or {}
    found, digits = figures.rows(result), figures.row_digits(result)
    return {
        "title": str(result.get("title") or result.get("study") or "Report"),
        "study": str(result.get("study") or ""),
        "created": str(result.get("created") or "").replace("T", " ")[:16],
        "insecure": bool(privacy.get("insecure")),
        "weak_unit": privacy.get("unit") == "record",
        "stand_in": str(result.get("stand_in") or ""),
        "headline": words.headline(result),
        "cards": _cards(result),
        "metric": figures.metric_label(result),
        "protocol": figures.protocol(result),
        "comparison": _comparison(_order(found), digits),
        "with_gap": any(row.difference is not None for row in found),
        "across": _across(result, digits),
        "with_sd": any(row.sd is not None for row in found),
        "forest": _forest(result, found, digits),
        "flow": flow(result),
        "design": _design(result),
        "notes": [str(note) for note in result.get("notes") or ()],
        "thresholds": _thresholds(result, curves),
        "learning": _learning(result, rounds, digits),
        "spent": _spent(privacy, rounds),
        "hospitals": _hospitals(result, digits),
        "fit": _fit(result, curves),
        "further": _further(result),
        "statement": [escape(sentence).replace("e^ε", Markup("e<sup>ε</sup>")) for sentence in words.statement(result)],
        "adversaries": words.adversaries(result),
        "colluders": _colluders(privacy),
        "mechanism": _mechanism(privacy),
        "facts": _facts(result),
        "versions": sorted((str(k), str(v)) for k, v in (result.get("versions") or {}).items()),
        "fingerprint": str(result.get("fingerprint") or ""),
        "command": str(result.get("command") or ""),
    }


def _better(result: Result) -> str:
    return "higher is better" if result["metric"].get("higher_is_better", True) else "lower is better"


def _cards(result: Result) -> list[tuple[str, str, list[str]]]:
    privacy, digits = result.get("privacy") or {}, figures.row_digits(result)
    own = next(row for row in figures.rows(result) if row.kind == "federation")
    spread = figures.interval(own.low, own.high, digits)
    below = ["95 % interval " + spread.replace(" ", "\u00a0")] if spread else []
    below += [f"sd over seeds {figures.number(own.sd, digits)}"] if own.sd is not None else []
    cards = [(figures.metric_label(result), figures.number(own.value, digits), below)]
    epsilon, unit = finite(privacy.get("epsilon")), figures.unit_of(result)
    if epsilon is None or privacy.get("insecure"):
        cards.append(
            ("Privacy", "none", ["the noise followed a known seed" if epsilon is not None else "no noise added"])
        )
    else:
        delta = figures.delta_text(finite(privacy.get("delta")))
        cards.append((f"Privacy per {unit}", f"ε = {figures.epsilon_text(epsilon)}", [f"δ = {delta}"]))
    sites = result.get("sites") or []
    known = [site["patients"] for site in sites if site.get("patients") is not None]
    held = [site["held_out"] for site in sites if site.get("held_out") is not None]
    below = [f"{figures.count(sum(known), figures.person(result))}"] if known else []
    below += [f"{sum(held):,} held out"] if held and result.get("protocol", "holdout") == "holdout" else []
    cards.append(("Hospitals", f"{len(sites):,}", below))
    if result.get("rounds"):
        size = result.get("parameters")
        cards.append(("Rounds", f"{result['rounds']:,}", [figures.count(size, "parameter")] if size else []))
    return cards


def _order(found: Sequence[figures.Row]) -> list[figures.Row]:
    """Return the rows with many hospitals alone last: nobody should scroll past twenty lines to the result."""
    alone = [row for row in found if row.kind == "local"]
    rest = [row for row in found if row.kind != "local"]
    return rest + alone if len(alone) > charts.MANY else alone + rest


def _comparison(found: Sequence[figures.Row], digits: int) -> list[dict[str, str]]:
    return [
        {
            "kind": row.kind,
            "label": row.label,
            "note": row.note,
            "value": figures.number(row.value, digits),
            "interval": figures.interval(row.low, row.high, digits),
            "difference": _gap(row, digits),
            "sd": "" if row.sd is None else figures.number(row.sd, digits),
            "epsilon": ""
            if row.kind in ("reference", "best")
            else "none"
            if row.epsilon is None
            else figures.epsilon_text(row.epsilon),
        }
        for row in found
    ]


def _forest(result: Result, found: Sequence[figures.Row], digits: int) -> tuple[Markup, Markup] | None:
    """Return the comparison for a wide screen and for a narrow one."""
    if sum(row.value is not None for row in found) < 2:
        return None
    label = figures.metric_label(result)
    told = (found, label, _better(result), digits, f"{label}: each hospital alone and together")
    return charts.forest(*told), narrow.forest(*told)


def _gap(row: figures.Row, digits: int) -> str:
    if row.difference is None:
        return ""
    value, low, high = row.difference
    return f"{figures.number(value, digits)} ({figures.interval(low, high, digits)})"


def _across(result: Result, digits: int) -> str:
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


def _thresholds(result: Result, curves: Mapping[str, Any]) -> list[tuple[str, Markup, str]]:
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


def _colluders(privacy: Mapping[str, Any]) -> Markup | None:
    points = [(t, value) for t, value in privacy.get("epsilon_by_colluders") or () if finite(value) is not None]
    if len(points) < 3 or privacy.get("insecure"):
        return None
    return planes.colluders(points, int(privacy.get("colluders") or 0))


def _design(result: Result) -> dict[str, Any] | None:
    """Return the study's inputs, its split and its text, as they stand in result.json."""
    found = result.get("design")
    if not found:
        return None
    split = str(found["split"])
    if result.get("protocol") == "cv":
        split = (
            "Five folds: that of a patient is the first 8 bytes of HMAC-SHA-256 of 'fold', a zero byte and the patient "
            "id, modulo 5; the key is the study's split_key, a stroke and the number of the seed, from 0."
        )
    elif result.get("protocol") == "leave-one-site-out":
        split = "Each hospital was held out once, with all of its patients, from a training on all others."
    return {"inputs": found["inputs"], "split": split, "text": str(found["text"]), "more": len(found["inputs"]) >= MOST}


def _learning(result: Result, rounds: Sequence[Mapping[str, Any]], digits: int) -> Markup | None:
    metric, label = figures.metric_name(result), figures.metric_label(result)
    series: dict[Any, dict[float, float]] = {}
    for entry in rounds:
        value = finite((entry.get("metrics") or {}).get(metric))
        if value is not None:
            series.setdefault((entry.get("seed"), entry.get("fold")), {})[float(entry["round"])] = value
    lines = [sorted(points.items()) for points in series.values()]
    if not lines or max(map(len, lines)) < 2:
        return None
    return charts.curve(lines, f"{label}, {_better(result)}", digits, f"{label} over the rounds")


def _spent(privacy: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Markup | None:
    points: dict[float, float] = {}
    for entry in rounds:
        value = finite(entry.get("epsilon"))
        if value is not None:
            points[float(entry["round"])] = max(value, points.get(float(entry["round"]), 0.0))
    target = finite(privacy.get("epsilon"))
    if len(points) < 2:
        return None
    goal = None if target is None else (target, f"target: ε = {figures.epsilon_text(target)}")
    last = f"ε = {figures.epsilon_text(points[max(points)])}"
    return charts.curve([sorted(points.items())], "ε spent so far", 2, "Privacy spent over the rounds", goal, last)


def _hospitals(result: Result, digits: int) -> dict[str, Any] | None:
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
    drawn = sorted(drawn, key=lambda pair: -(pair.patients or 0))
    label = figures.metric_label(result)
    title = f"{label} on each hospital's own held-out {figures.person(result)}s"
    told = (drawn[:MOST_HOSPITALS], label, _better(result), digits, title)
    return {
        "lines": lines,
        "people": figures.people(result),
        "has": {key for line in lines for key, value in line.items() if value},
        "chart": [module.pairs(*told) for module in (charts, narrow)] if drawn else None,
        "left_out": max(0, len(drawn) - MOST_HOSPITALS),
    }


def _at(label: str, metrics: Mapping[str, Any] | None, metric: str) -> figures.Row | None:
    if not metrics or finite(metrics.get(metric)) is None:
        return None
    value, low, high = (finite(metrics.get(metric + end)) for end in ("", "_low", "_high"))
    return figures.Row(label, label, value, low, high)


def _cell(row: figures.Row | None, digits: int) -> str:
    if row is None:
        return ""
    spread = figures.interval(row.low, row.high, digits)
    return figures.number(row.value, digits) + (f" ({spread})" if spread else "")


def _fit(result: Result, curves: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how predictions agree with the truth: the chart that suits the task, and how to read it."""
    bins = [found for found in curves.get("calibration") or () if finite(found.get("count")) and found["count"] >= 1]
    people = f"{figures.person(result)}s"
    if curves.get("survival"):
        return _survival(result, curves["survival"], bins)
    if bins:
        return {
            "title": "Predicted against observed",
            "chart": charts.calibration(bins, f"Calibration on held-out {people}", people),
            "note": f"Dots on the dashed line mean that of the {people} given a risk of 20 %, 20 % had the outcome. "
            "Lines are 95 % intervals (Wilson)." + (_noised(result) and " They do not count the noise of the release."),
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
            "div", chart, charts.calibration(bins, f"Calibration at {by}", "patients")
        )  # one below the other
        note += (
            f" Below, the risk by {by} in five groups: dots on the dashed line mean that as many had the event as were "
            "predicted to. What patients who left would have had is Kaplan-Meier's; lines are 95 % intervals."
        )
    return {"title": "Predicted against observed", "chart": chart, "note": note + (_noised(result) and " Noised.")}


def _noised(result: Result) -> str:
    return "yes" if (result.get("privacy") or {}).get("evaluation_release") == "private" else ""


def _further(result: Result) -> dict[str, Any] | None:
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


def _mechanism(privacy: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = (
        ("mechanism", "Mechanism"), ("unit", "Unit"), ("noise_multiplier", "Noise multiplier σ"),
        ("sampling_rate", "Sampling rate q"), ("clip", "Clipping bound C"), ("steps", "Noisy steps T"),
        ("colluders", "Colluding hospitals allowed for"), ("evaluation_release", "Release of held-out results"),
    )  # fmt: skip
    shown = []
    for key, name in names:
        value = privacy.get(key)
        if value is not None:
            shown.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return shown


def _facts(result: Result) -> list[tuple[str, str]]:
    timing, traffic = result.get("timing") or {}, result.get("traffic") or {}
    shown = []
    for key, name in (("wall_s", "Time, all"), ("train_s", "Time in gradients"), ("overhead_s", "Time around them")):
        value = finite(timing.get(key))
        if value is not None:
            shown.append((name, figures.duration(value)))
    for key, name in (("bytes_up_per_site", "Sent by each hospital"), ("bytes_down_per_site", "Sent to each hospital")):
        value = finite(traffic.get(key))
        if value is not None:
            shown.append((name, figures.size(value)))
    for name, weights in sorted((result.get("public_weights") or {}).items()):
        shown.append((f"Public weights, {name}", str(weights)))
    shown.append(("Secure aggregation", "yes" if result.get("secure_aggregation") else "no"))
    if result.get("seeds"):
        shown.append(("Seeds", str(result["seeds"])))
    if result.get("protocol"):
        shown.append(("Protocol", figures.protocol(result)))
    return shown
