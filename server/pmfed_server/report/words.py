"""The result of a run in words: what was learned, from whom, how well, and what it cost in privacy."""

from __future__ import annotations

from pmfed_server.report.figures import (
    Result,
    best_alone,
    count,
    finite,
    interval,
    metric_label,
    no_information,
    number,
    person,
    row_digits,
    rows,
)
from pmfed_server.report.promise import promise_short


def headline(result: Result) -> list[str]:
    """Return in plain words what was learned, from whom, how well, and what it cost in privacy."""
    by_kind = {row.kind: row for row in rows(result)}
    own, digits = by_kind["federation"], row_digits(result)
    sites = result.get("sites") or []
    known = [site["patients"] for site in sites if site.get("patients") is not None]
    patients = ""
    if known:
        patients = f" with {'' if len(known) == len(sites) else 'at least '}{count(sum(known), person(result))}"
    sentences = [f"{count(len(sites), 'hospital')}{patients} trained one model together; each kept its own records."]
    label = metric_label(result, unit=False)
    label = label[:1].lower() + label[1:] if label[1:2].islower() else label
    unit = f" {result['unit']}" if metric_label(result) != metric_label(result, unit=False) else ""
    spread = interval(own.low, own.high, digits)
    unseen = "hospitals" if result.get("protocol") == "leave-one-site-out" else f"{person(result)}s"
    text = f"On {unseen} it never saw, its {label} "
    if own.value is None:
        text += "cannot be told: too few were held out, all had the same outcome, or the release was lost"
    else:
        text += f"is {number(own.value, digits)}{unit}"
        text += f", the mean of {count(result['seeds'], 'seed')}" if (result.get("seeds") or 1) > 1 else ""
        text += f" (95 % interval {spread})" if spread else ""
        constant = no_information(result)
        text += f"; the commonest class for all has {number(constant, digits)}" if constant is not None else ""
    sentences += [text + ".", promise_short(result), *_miscalibrated(result)]
    alone = best_alone(result)
    others = [f"the best hospital alone reaches {number(alone.value, digits)}"] if alone else []
    for kind, words in (
        ("no-privacy", "the federation without noise"),
        ("pooled", "all data in one place, without privacy,"),
    ):
        if kind in by_kind and by_kind[kind].value is not None:
            others.append(f"{words} {number(by_kind[kind].value, digits)}")
    if others:
        line = "; ".join(others)
        sentences.append(line[0].upper() + line[1:] + ".")
    return sentences


def _miscalibrated(result: Result) -> list[str]:
    """Say in what way predictions are off, where chance alone does not explain it."""
    test, said = result["metrics"]["test"], []

    def away(name: str) -> float | None:
        value, low, high = (finite(test.get(name + end)) for end in ("", "_low", "_high"))
        return value if value is not None and low is not None and high is not None and not low <= 1 <= high else None

    if (share := away("oe")) is not None:
        said.append(f"of every 100 events it expects {share * 100:,.0f} happen")
    if (slope := away("calibration_slope")) is not None:
        how = "too far apart" if slope < 1 else "too close together"
        said.append(f"its risks lie {how} (calibration slope {number(slope, 2)}, where 1 is right)")
    return [f"What it predicts is not to be taken as it is: {', and '.join(said)}."] if said else []
