"""What a model's outputs tell people: probabilities, a value with its unit, the risk by the horizon."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pmfed.errors import UsageError
from pmfed.runs.description import Answer

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[np.generic]]

BACK: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda values: values,
    "sqrt": lambda values: np.asarray(np.clip(values, 0, None) ** 2),
    "log": lambda values: np.asarray(np.exp(np.clip(values, None, 700.0))),
}


def told(answer: Answer, outputs: Floats) -> Columns:
    """Return what is told of each record, by name.

    Parameters
    ----------
    answer
        What the outputs mean.
    outputs : (R, out)
        Of the model, recalibrated.

    Raises
    ------
    UsageError
        The answer is a picture, which has no place in a table.
    """
    if outputs.ndim != 2:
        raise UsageError(
            "this model marks every pixel of a picture, which is no line of a table.",
            "Read its masks in Python: pmfed.runs.predictors.predictor gives them.",
        )
    return _LINKS[answer.link](answer, outputs)


def horizon(answer: Answer) -> str:
    """Return what is predicted, in words, with its unit and horizon."""
    unit = f" in {answer.unit}" if answer.unit else ""
    if answer.link == "hazards":
        return f"the risk of '{answer.classes[1]}' by time {answer.horizon:g}{unit} (column '{answer.column}')"
    if answer.link == "regression":
        return f"'{answer.column}'{unit}"
    if answer.link == "logistic":
        return f"the probability that '{answer.column}' is '{answer.classes[1]}'"
    return f"the probability of each class of '{answer.column}'"


def probability(outputs: Floats) -> Floats:
    """Return the inverse of the logit, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -outputs)), dtype=np.float64)


def value(answer: Answer, outputs: Floats) -> Floats:
    """Return the value in natural units, (R,), of a regression's outputs (R, 1)."""
    assert answer.scale is not None
    assert answer.centre is not None
    real = BACK[answer.transform](outputs[:, 0] * answer.scale + answer.centre)
    return np.clip(real, answer.minimum, answer.maximum)


def alive(outputs: Floats) -> Floats:
    """Return the chance to be without the event at every boundary, (R, intervals)."""
    return np.asarray(np.exp(-np.cumsum(np.logaddexp(0.0, outputs), axis=1)), dtype=np.float64)


def _logistic(answer: Answer, outputs: Floats) -> Columns:
    return {f"probability {answer.classes[1]}": probability(outputs[:, 0])}


def _softmax(answer: Answer, outputs: Floats) -> Columns:
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    found: Columns = {"class": np.array(answer.classes, dtype=object)[shares.argmax(axis=1)]}
    return found | {f"probability {name}": shares[:, place] for place, name in enumerate(answer.classes)}


def _regression(answer: Answer, outputs: Floats) -> Columns:
    return {f"{answer.column} {answer.unit}" if answer.unit else answer.column: value(answer, outputs)}


def _hazards(answer: Answer, outputs: Floats) -> Columns:
    chances = alive(outputs)
    found: Columns = {f"risk by {answer.horizon:g}": 1 - chances[:, answer.column_told]}
    return found | {f"without {end:g}": chances[:, place] for place, end in enumerate(answer.intervals)}


_LINKS: dict[str, Callable[[Answer, Floats], Columns]] = {
    "logistic": _logistic, "softmax": _softmax, "regression": _regression, "hazards": _hazards,
}  # fmt: skip
