"""Whether there were patients enough: events per parameter, and how much a regression of that size would have to be shrunk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pmfed_server.report.figures import Result, count, finite, number, people, person

ENOUGH = 0.9  # of the expected shrinkage: Riley et al. 2019, Statistics in Medicine 38:1276


def sample_size(result: Result) -> list[str]:
    """Return the sample-size statement in sentences; empty where the study's public numbers are not told.

    Patients are the study's public expectation, events follow from it and the share observed among the held-out.
    """
    expected, parameters = (result.get("design") or {}).get("expected_patients"), result.get("parameters")
    if not expected or not parameters:
        return []
    who = f"{people(result).lower()}"
    said = [
        f"Planned for {expected:,} {who} in training (the study's public number), {count(parameters, 'parameter')}:"
    ]
    events = _events(result, expected)
    if events is None:
        said[0] += f" {number(expected / parameters, 1)} {who} per parameter."
    else:
        said[0] += (
            f" about {events:,.0f} of them on the rarer side of the outcome, at the share seen among the held-out, "
            f"{number(events / parameters, 1)} per parameter."
        )
    if (fit := _fit(result)) is not None and parameters > 1:
        said.append(_shrinkage(fit, expected, parameters, person(result)))
    if parameters > expected / 10:
        said.append(
            "With so many parameters the count says little: a network that is held back by noise, by few steps and by "
            "clipping does not use all of them."
        )
    if finite((result.get("privacy") or {}).get("epsilon")) is not None:
        said.append("Both are of a training without noise; the noise of the promise asks for more.")
    return said


def _over_patients(result: Result) -> Mapping[str, Any]:
    """Return the figures of all patients together: a mean over hospitals knows no share of patients."""
    told: Mapping[str, Any] = result.get("over_patients") or result["metrics"]["test"]
    return told


def _events(result: Result, expected: int) -> float | None:
    """Return about how many of the expected patients have the rarer outcome, from the released figures."""
    test = _over_patients(result)
    if result.get("task") == "binary" and (common := finite(test.get("no_information"))) is not None:
        return expected * (1 - common)
    if result.get("task") == "survival" and (risk := finite(test.get("observed_risk"))) is not None:
        return expected * risk
    return None


def _fit(result: Result) -> float | None:
    """Return Cox and Snell's R squared on held-out patients, from the log loss; None where it is not told."""
    test = _over_patients(result)
    common, loss = finite(test.get("no_information")), finite(test.get("log_loss"))
    if result.get("task") != "binary" or common is None or loss is None or not 0 < common < 1:
        return None
    null = -(common * math.log(common) + (1 - common) * math.log(1 - common))
    return 1 - math.exp(-2 * (null - loss))


def _shrinkage(fit: float, expected: int, parameters: int, who: str) -> str:
    if fit <= 0:
        return "On the held-out it fits no better than the share of the outcome alone, so an expected shrinkage cannot be told."
    own = parameters - 1  # the intercept is not shrunk
    factor = 1 + own / (expected * math.log(1 - fit))
    needed = own / ((ENOUGH - 1) * math.log(1 - min(fit / ENOUGH, 0.999)))
    enough = f"for {ENOUGH:g}, which is taken for enough, about {math.ceil(needed):,} {who}s are needed"
    told = f"about {number(factor, 2)}" if factor > 0 else "below zero: far too few"
    return (
        f"With the fit seen on the held-out (R² {number(fit, 3)}, Cox and Snell) the expected shrinkage of an unpenalised "
        f"regression of that size is {told}; {enough} (Riley et al. 2019)."
    )
