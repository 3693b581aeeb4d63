"""How a model's outputs become what people are told: one class per link, which an answer names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pmfed.runs.description import Answer
from pmfed.study.outcome import Link

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[np.generic]]

BACK: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda values: values,
    "sqrt": lambda values: np.asarray(np.clip(values, 0, None) ** 2),
    "log": lambda values: np.asarray(np.exp(np.clip(values, None, 700.0))),
}


class Telling(ABC):
    """What a link makes of outputs (R, out) of an answer, and the words for it."""

    exported: str
    """What a program is given that runs the exported network."""
    percent: bool = True
    """Whether what is told is a chance, which people read in percent."""
    multiplies: str = ""
    """What the exponential of a contribution multiplies; "" where it multiplies nothing."""

    @abstractmethod
    def told(self, answer: Answer, outputs: Floats) -> Columns:
        """Return what is told of each record, by name."""

    @abstractmethod
    def sentence(self, answer: Answer) -> str:
        """Return what is predicted, in words, with its unit and horizon."""

    @abstractmethod
    def counted_in(self, answer: Answer) -> tuple[str, float]:
        """Return what contributions are counted in, and the factor from outputs to it."""

    def explained(self, answer: Answer, outputs: Floats) -> NDArray[np.int64]:
        """Return which output the explanation of each record is of, (R,)."""
        return np.full(len(outputs), answer.column_told, dtype=np.int64)

    def tables(self, answer: Answer) -> dict[int, str]:
        """Return the outputs that a table of coefficients is written of, with the title of each; "" where there is one."""
        return {answer.column_told: ""}


class LogisticLink(Telling):
    """One output, the logit of the second class."""

    exported = "probability of the second class"
    multiplies = "odds"

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        return {f"probability {answer.classes[1]}": probability(outputs[:, 0])}

    def sentence(self, answer: Answer) -> str:
        return f"the probability that '{answer.column}' is '{answer.classes[1]}'"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        return "log odds", 1.0


class Softmax(Telling):
    """One output per class; their exponentials are in the proportion of the probabilities."""

    exported = "probability of each class"

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares = shifted / shifted.sum(axis=1, keepdims=True)
        likeliest: Columns = {"class": np.array(answer.classes, dtype=object)[shares.argmax(axis=1)]}
        return likeliest | {f"probability {name}": shares[:, place] for place, name in enumerate(answer.classes)}

    def sentence(self, answer: Answer) -> str:
        return f"the probability of each class of '{answer.column}'"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        return "score of the likeliest class", 1.0

    def explained(self, answer: Answer, outputs: Floats) -> NDArray[np.int64]:
        return np.asarray(outputs.argmax(axis=1), dtype=np.int64)

    def tables(self, answer: Answer) -> dict[int, str]:
        return {place: f"class {name}" for place, name in enumerate(answer.classes)}


class ValueLink(Telling):
    """One output, the value on a transformed scale."""

    exported = "value in natural units"
    percent = False

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        return {f"{answer.column} {answer.unit}" if answer.unit else answer.column: value(answer, outputs)}

    def sentence(self, answer: Answer) -> str:
        return f"'{answer.column}'{_unit(answer)}"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        unit = answer.unit or "the unit of the outcome"
        words = {"none": unit, "sqrt": f"square root of {unit}", "log": f"logarithm of {unit}"}
        return words[answer.transform], answer.scale or 1.0


class HazardsLink(Telling):
    """One output per interval: the logit of the chance of the event there for who came so far."""

    exported = "chance to be without the event at the end of every interval"
    multiplies = "odds"

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        chances = alive(outputs)
        risk: Columns = {f"risk by {answer.horizon:g}": 1 - chances[:, answer.column_told]}
        return risk | {f"without {end:g}": chances[:, place] for place, end in enumerate(answer.intervals)}

    def sentence(self, answer: Answer) -> str:
        by = f"{answer.horizon:g}{_unit(answer)}"
        return f"the risk of '{answer.classes[1]}' by time {by} (column '{answer.column}')"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        return "log odds of the event in the interval of the horizon", 1.0


class Rate(Telling):
    """One output, the logarithm of how often it is expected, up to the largest possible count."""

    exported = "expected count"
    percent = False
    multiplies = "rate"

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        return {f"expected {answer.column}": rate(answer, outputs)}

    def sentence(self, answer: Answer) -> str:
        return f"how often '{answer.column}'{_unit(answer)} is expected"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        return "logarithm of the expected count", 1.0


class Grades(Telling):
    """One output per grade but the lowest: the logit of the chance of that grade or a higher one."""

    exported = "probability of each grade"
    multiplies = "odds"

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        chances = grades(outputs)
        middle = (np.minimum.accumulate(outputs, axis=1) > 0).sum(axis=1)
        found: Columns = {"grade": np.array(answer.classes, dtype=object)[middle]}
        return found | {f"probability {name}": chances[:, place] for place, name in enumerate(answer.classes)}

    def sentence(self, answer: Answer) -> str:
        return f"the grade of '{answer.column}' that as much speaks below as above, and the probability of each"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        return "log odds of a higher grade", 1.0

    def explained(self, answer: Answer, outputs: Floats) -> NDArray[np.int64]:
        return np.full(len(outputs), (answer.outputs - 1) // 2, dtype=np.int64)

    def tables(self, answer: Answer) -> dict[int, str]:
        return {place: f"{name} or higher" for place, name in enumerate(answer.classes[1:])}


class Labels(Telling):
    """One output per label: its logit."""

    exported = "probability of each label"
    multiplies = "odds"

    def told(self, answer: Answer, outputs: Floats) -> Columns:
        return {f"probability {name}": probability(outputs[:, place]) for place, name in enumerate(answer.classes)}

    def sentence(self, answer: Answer) -> str:
        return f"the probability of each of '{answer.column}'"

    def counted_in(self, answer: Answer) -> tuple[str, float]:
        return "log odds of the likeliest label", 1.0

    def explained(self, answer: Answer, outputs: Floats) -> NDArray[np.int64]:
        return np.asarray(outputs.argmax(axis=1), dtype=np.int64)

    def tables(self, answer: Answer) -> dict[int, str]:
        return {place: f"label {name}" for place, name in enumerate(answer.classes)}


LINKS: dict[Link, Telling] = {
    "logistic": LogisticLink(), "softmax": Softmax(), "regression": ValueLink(), "hazards": HazardsLink(), "rate": Rate(),
    "grades": Grades(), "labels": Labels(),
}  # fmt: skip
assert LINKS.keys() == set(get_args(Link))


def _unit(answer: Answer) -> str:
    return f" in {answer.unit}" if answer.unit else ""


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


def rate(answer: Answer, outputs: Floats) -> Floats:
    """Return the expected counts, (R,), of outputs (R, 1)."""
    assert answer.maximum is not None
    return np.minimum(np.exp(np.minimum(outputs[:, 0], np.log(answer.maximum))), answer.maximum)


def grades(outputs: Floats) -> Floats:
    """Return the chance of each grade, (R, classes), from cumulative logits (R, classes - 1).

    The chance to reach a grade counts as no larger than that to reach the one below: noise may have put two in the wrong order.
    """
    reached = np.minimum.accumulate(probability(outputs), axis=1)
    bounds = np.pad(reached, ((0, 0), (1, 1)))
    bounds[:, 0] = 1.0
    return np.asarray(bounds[:, :-1] - bounds[:, 1:], dtype=np.float64)
