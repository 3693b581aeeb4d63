"""Contributions and coefficients in sentences and tables that a person reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pmfed.explain.coefficients import Linearly
from pmfed.explain.contributions import Contributions, Piece, features_of, natural
from pmfed.modality.inputs import Input
from pmfed.runs.answers import horizon, told
from pmfed.runs.description import Answer
from pmfed.runs.links import LINKS
from pmfed.runs.model import Model
from pmfed.runs.patients import Patients
from pmfed.runs.predict import stand_in

Floats = NDArray[np.float64]

UNITS = {"a": "years"}  # as UCUM writes them: as people do


def scale_of(answer: Answer) -> tuple[str, float]:
    """Return what the contributions are counted in, and the factor from outputs to it."""
    return LINKS[answer.link].counted_in(answer)


def shown_unit(one: Input) -> str:
    """Return the unit with a space in front; nothing where the study states none."""
    return f" {UNITS.get(one.unit, one.unit)}" if one.unit else ""


def value_of(patients: Patients, row: int, feature: str, made: Sequence[Piece]) -> str:
    """Return what a patient's feature is, in words; ``made`` is what `features_of` tells of it."""
    if patients.outside.get(feature, np.zeros(row + 1, bool))[row]:
        return "outside the study's bounds, counted as not known"
    name = made[0][0]
    if patients.missing.get(feature, np.zeros(row + 1, bool))[row]:
        return f"not known; {stand_in(made[0][2])}"
    values = patients.cohort.inputs[name][row]
    if values.ndim != 1 or made[0][1] is None:
        return "a picture" if made[0][2] is None else "a course over time"
    said = []
    for _, column, one in made:
        assert one is not None
        assert column is not None
        if one.says == "category" and values[column] > 0.5:
            said.append(one.category or "another one")
        elif one.says in ("value", "copies"):
            said.append(f"{_clean(one, values[column]):.4g}{shown_unit(one)}")
        elif one.says == "allele":
            said.append(f"{_clean(one, values[column]):.3g} of {one.name}")
        elif one.says == "word" and values[column] != 0:
            said.append("in the notes")
    return ", ".join(said) or "none of it"


def _clean(one: Input, value: np.floating) -> float:
    """Return what an input says, without the last digits that single precision lost: 0, not 5e-09."""
    grain = 1e-6 * (abs(one.mean or 0.0) + (one.scale or 1.0))
    real = natural(one, float(value))
    return 0.0 if abs(real) < grain else real


def patient(
    model: Model, patients: Patients, outputs: Floats, found: Contributions, row: int, most: int
) -> Iterator[str]:
    """Yield one patient's explanation, a line each.

    Parameters
    ----------
    model, patients, outputs, found
        The model, patients, its outputs for them, recalibrated, and what their features add.
    row
        Which record.
    most
        So many features are listed; the others are added up in one line.
    """
    answer = model.description.answer
    unit, factor = scale_of(answer)
    columns = told(answer, outputs[row : row + 1])
    said = ", ".join(f"{name} {_shown(values[0])}" for name, values in columns.items())
    yield f"{horizon(answer)}: {said}"
    yield f"counted in {unit}; what is listed adds up to the answer{'' if found.exact else ' but for what is left over'}."
    start = "where every patient starts" if found.exact else "where a patient with the same modalities starts"
    yield f"  {factor * found.baseline[row] + _centre(answer):+10.4f}  {start}"
    amounts, table = factor * found.amounts[row], features_of(model)
    listed, rest = 0, []
    for place in np.argsort(-np.abs(amounts), kind="stable"):
        feature = found.features[place]
        if not patients.cohort.present[feature.partition(".")[0]][row]:
            continue  # told below, once for all of them
        unknown = any(marks[feature][row] for marks in (patients.missing, patients.outside) if feature in marks)
        if listed < most or unknown:  # what is not known is told, however little it changes
            if amounts[place] != 0.0 or unknown:
                said = value_of(patients, row, feature, table[feature])
                yield f"  {amounts[place]:+10.4f}  {feature}: {said}{_odds(answer, amounts[place])}"
                listed += 1
        else:
            rest.append(amounts[place])
    if rest:
        yield f"  {sum(rest):+10.4f}  {len(rest)} other features together"
    for name, there in patients.cohort.present.items():
        if not there[row]:
            yield f"  {0.0:+10.4f}  {name}: this patient does not have it"
    if not found.exact:
        yield f"  {factor * found.rest[row]:+10.4f}  left over: what the steps of the integral did not attribute"
    yield f"  {factor * found.output[row] + _centre(answer):+10.4f}  in all"


def _centre(answer: Answer) -> float:
    return answer.centre or 0.0


def _odds(answer: Answer, amount: float) -> str:
    what = LINKS[answer.link].multiplies
    return f" ({what} x {math.exp(min(amount, 50.0)):.3g})" if what else ""


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


HEAD = ("feature", "input", "unit", "minimum", "maximum", "transform", "coefficient", "per unit", "stand-in")


def table(model: Model, linear: Linearly, output: int = 0) -> Iterator[Sequence[str]]:
    """Yield the rows of a coefficient table: head, intercept, a row per input.

    ``coefficient`` is what one more of the scaled input adds, ``per unit`` what one more unit does, both in what
    `scale_of` tells.
    """
    _, factor = scale_of(model.description.answer)
    yield HEAD
    start = factor * linear.intercept[output] + _centre(model.description.answer)
    yield ("", "intercept", "", "", "", "", f"{start:.8g}", "", "")
    for one in linear.coefficients:
        info = one.told
        assert info is not None
        bounds = [f"{bound:g}" if bound is not None else "" for bound in (info.minimum, info.maximum)]
        weight, per = factor * one.weight[output], factor * one.per_unit[output]
        transform = "" if info.transform == "none" else info.transform
        yield (one.feature, one.name, info.unit or "", *bounds, transform, f"{weight:.8g}", f"{per:.8g}", info.stand_in)


def importance(found: Sequence[Contributions], factor: float) -> Iterator[tuple[str, float]]:
    """Yield features with the mean size of what they add, over all records, the largest first."""
    total = sum(np.abs(one.amounts).sum(axis=0) for one in found)
    number = sum(len(one.amounts) for one in found)
    means = factor * np.asarray(total) / max(number, 1)
    for place in np.argsort(-means, kind="stable"):
        yield found[0].features[place], float(means[place])
