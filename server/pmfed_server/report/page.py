"""RUN/report.html: one file that stands alone, no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from pmfed.file_io import replace_file
from pmfed.plain import plain, plain_tree
from pmfed_server.report import charts, figures, fit, groups, hospitals, narrow, planes, promise, words
from pmfed_server.report.checklist import checklist
from pmfed_server.report.design import MOST, flow
from pmfed_server.report.figures import Result, finite
from pmfed_server.report.pages import page_of
from pmfed_server.report.sample_size import sample_size


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
    target = run / "report.html"
    shown = content(plain_tree(result), plain_tree(rounds), plain_tree(curves))
    if shown["design"]:  # a text of many lines: each made plain by itself, or they would run together
        shown["design"]["text"] = "\n".join(plain(line) for line in str(result["design"]["text"]).splitlines())
    replace_file(target, page_of("template.html.j2", shown))
    return target


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
        "across": hospitals.across(result, digits),
        "with_sd": any(row.sd is not None for row in found),
        "forest": _forest(result, found, digits),
        "flow": flow(result),
        "design": _design(result),
        "notes": [str(note) for note in result.get("notes") or ()],
        "thresholds": fit.thresholds(result, curves),
        "learning": _learning(result, rounds, digits),
        "spent": _spent(privacy, rounds),
        "hospitals": hospitals.hospitals(result, digits),
        "fit": fit.fit(result, curves),
        "further": fit.further(result),
        "subgroups": groups.subgroups(result, digits),
        "robustness": groups.robustness(result, digits),
        "statement": [
            escape(sentence).replace("e^ε", Markup("e<sup>ε</sup>")) for sentence in promise.statement(result)
        ],
        "adversaries": promise.adversaries(result),
        "colluders": _colluders(privacy),
        "mechanism": _mechanism(privacy),
        "facts": _facts(result),
        "digests": [(str(s["name"]), str(s["data"])) for s in result.get("sites") or () if s.get("data")],
        "checklist": checklist(result),
        "sample_size": sample_size(result),
        "versions": sorted((str(k), str(v)) for k, v in (result.get("versions") or {}).items()),
        "fingerprint": str(result.get("fingerprint") or ""),
        "command": str(result.get("command") or ""),
    }


def _cards(result: Result) -> list[tuple[str, str, list[str]]]:
    privacy, digits = result.get("privacy") or {}, figures.row_digits(result)
    own = next(row for row in figures.rows(result) if row.kind == "federation")
    spread = figures.interval(own.low, own.high, digits)
    below = ["95 % interval " + spread.replace(" ", "\u00a0")] if spread else []
    below += [f"sd over seeds {figures.number(own.sd, digits)}"] if own.sd is not None else []
    constant = figures.no_information(result)
    below += [f"commonest class for all {figures.number(constant, digits)}"] if constant is not None else []
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


def _order(found: Sequence[figures.FigureRow]) -> list[figures.FigureRow]:
    """Return the rows with many hospitals alone last: nobody should scroll past twenty lines to the result."""
    alone = [row for row in found if row.kind == "local"]
    rest = [row for row in found if row.kind != "local"]
    return rest + alone if len(alone) > charts.MANY else alone + rest


def _comparison(found: Sequence[figures.FigureRow], digits: int) -> list[dict[str, str]]:
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


def _forest(result: Result, found: Sequence[figures.FigureRow], digits: int) -> tuple[Markup, Markup] | None:
    """Return the comparison for a wide screen and for a narrow one."""
    if sum(row.value is not None for row in found) < 2:
        return None
    label = figures.metric_label(result)
    told = (found, label, figures.better(result), digits, f"{label}: each hospital alone and together")
    return charts.forest(*told), narrow.forest(*told)


def _gap(row: figures.FigureRow, digits: int) -> str:
    if row.difference is None:
        return ""
    value, low, high = row.difference
    return f"{figures.number(value, digits)} ({figures.interval(low, high, digits)})"


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
    return {
        "inputs": found["inputs"], "split": split, "text": str(found["text"]), "more": len(found["inputs"]) >= MOST,
        "missing": [str(sentence) for sentence in found.get("missing") or ()],
    }  # fmt: skip


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
    return charts.curve(lines, f"{label}, {figures.better(result)}", digits, f"{label} over the rounds")


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
