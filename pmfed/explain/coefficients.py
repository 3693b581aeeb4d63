"""A linear model's coefficients by name, in the units of what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pmfed.errors import UsageError
from pmfed.modality.inputs import Input
from pmfed.models.linear import Linear
from pmfed.runs.model import Model
from pmfed.runs.predictors import network


@dataclass(frozen=True)
class Coefficient:
    """One input of a linear model.

    Attributes
    ----------
    feature, name
        ``modality.feature``, and the input's own name.
    told
        What ``model.json`` says of it; None for a pixel.
    weight : tuple of float
        What one more of the scaled input adds to each output.
    per_unit : tuple of float
        What one more unit (of ``log(1 + value)`` after that transform) adds to each output.
    """

    feature: str
    name: str
    told: Input | None
    weight: tuple[float, ...]
    per_unit: tuple[float, ...]


@dataclass(frozen=True)
class Linearly:
    """A whole linear model: every output is its intercept and the coefficients times the inputs.

    ``intercept`` is the output with every scaled input at 0; ``at_zero`` that with every value at 0, which seldom exists but
    is what ``per_unit`` starts from.
    """

    intercept: tuple[float, ...]
    at_zero: tuple[float, ...]
    coefficients: tuple[Coefficient, ...]


def linearly(model: Model) -> Linearly:
    """Return a linear model by name.

    Raises
    ------
    UsageError
        The model is not linear, or looks at pictures, whose pixels have no names.
    """
    net = network(model)
    if not isinstance(net, Linear):
        raise UsageError(
            "this model is a network: it has no coefficients.",
            "See what it makes of patients: pmfed explain RUN --site DIR",
        )
    weight = net.linear.weight.detach().double().numpy()
    bias = net.linear.bias.detach().double().numpy()
    outputs, start, found = len(bias), 0, []
    zero = bias.copy()
    for name, part in sorted(model.description.parts.items()):
        if not part.named:
            raise UsageError(
                f"modality '{name}' is a picture or a series, whose many inputs have no names of their own."
            )
        for column, one in enumerate(part.inputs):
            mine = np.broadcast_to(weight[:, start + column], (outputs,))
            per = mine / (one.scale or 1.0)
            zero -= per * (one.mean or 0.0)
            found.append(
                Coefficient(f"{name}.{one.feature}", one.name, one, tuple(map(float, mine)), tuple(map(float, per)))
            )
        start += math.prod(part.shape)
    return Linearly(tuple(map(float, bias)), tuple(map(float, zero)), tuple(found))
