"""What each feature of a patient adds to an output, so that all of it together is the output.

Of a linear model that is exact: intercept plus weight times input. Of a network it is the integral of the gradient from the
public baseline (every input that the patient has at its mean, Sundararajan et al. 2017), by captum; what the sum over
steps leaves unattributed is told beside the contributions and never spread over them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pmfed.cohort import Cohort
from pmfed.errors import UsageError
from pmfed.modality.inputs import Input
from pmfed.models.linear import Linear
from pmfed.runs.description import Straight
from pmfed.runs.links import LINKS
from pmfed.runs.model import Model
from pmfed.runs.predictors import network, recalibrated

Floats = NDArray[np.float64]

STEPS = (64, 256, 1024)
CLOSE = 1e-3  # of what is left unattributed, as a share of how far the output is from that of the baseline


@dataclass(frozen=True, eq=False)
class Contributions:
    """What R records' features add to one output.

    Attributes
    ----------
    features
        ``modality.feature``; a modality without named inputs is one feature.
    amounts : (R, features) float64
    baseline : (R,) float64
        The output without any of them: every input at its mean, no category true.
    rest : (R,) float64
        What was not attributed; 0 for a linear model.
    output : (R,) float64
        baseline + amounts + rest, which is what the model gives.
    exact
        Whether ``rest`` is 0 by construction.
    """

    features: tuple[str, ...]
    amounts: Floats = field(repr=False)
    baseline: Floats = field(repr=False)
    rest: Floats = field(repr=False)
    output: Floats = field(repr=False)
    exact: bool


Piece = tuple[str, int | None, Input | None]
"""Modality, column and input; of a modality of pictures column and input are None."""


def features_of(model: Model) -> dict[str, list[Piece]]:
    """Return what each feature is made of."""
    found: dict[str, list[Piece]] = {}
    for name, part in sorted(model.description.parts.items()):
        for column, one in enumerate(part.inputs):
            found.setdefault(f"{name}.{one.feature}", []).append((name, column, one))
        if not part.inputs:
            found[name] = [(name, None, None)]
    return found


def output_of(model: Model, outputs: Floats) -> NDArray[np.int64]:
    """Return which output each record's explanation is of: the likeliest class, the interval of the horizon, or the only one."""
    answer = model.description.answer
    return LINKS[answer.link].explained(answer, outputs)


def contributions(model: Model, cohort: Cohort) -> Contributions:
    """Return what each feature adds to the output that `output_of` names, recalibrated where that keeps a sum a sum.

    Parameters
    ----------
    model
        A model of the method ``gradient`` whose answer is no picture.
    cohort
        Inputs in their final form, as `read_patients` gives them.

    Raises
    ------
    UsageError
        The model is a network and captum is not installed; the answer is a picture; or no sum can tell the recalibration.
    """
    if model.study.outcome.masks is not None:
        raise UsageError("this model marks every pixel of a picture; there is no one output to explain.")
    scale, shift = _slope(model)
    net = network(model).double()
    inputs = {name: torch.from_numpy(values).double() for name, values in cohort.inputs.items()}
    present = {name: torch.from_numpy(seen) for name, seen in cohort.present.items()}
    with torch.no_grad():
        outputs = net(inputs, present).numpy()
    which = output_of(model, recalibrated(model.description.recalibration, outputs))
    if exact := isinstance(net, Linear):
        amounts, baseline = _linear(net, inputs, present, which)
    else:
        amounts, baseline = _integrated(net, inputs, present, which)
    table = features_of(model)
    summed = np.zeros((cohort.records, len(table)))
    last = {name: one.reshape(cohort.records, -1, one.shape[-1]).sum(axis=1) for name, one in amounts.items()}
    for place, made in enumerate(table.values()):
        for name, column, _ in made:
            own = last[name]  # over steps and rows of pixels
            summed[:, place] += own.sum(axis=1) if column is None else own[:, column]
    rows = np.arange(cohort.records)
    output = outputs[rows, which]
    rest = np.zeros(cohort.records) if exact else output - baseline - summed.sum(axis=1)
    return Contributions(
        tuple(table),
        scale * summed,
        scale * baseline + shift[which],
        scale * rest,
        scale * output + shift[which],
        exact,
    )


def _slope(model: Model) -> tuple[float, Floats]:
    """Return slope and intercepts of a model's recalibration, under which contributions stay contributions."""
    changed = model.description.recalibration
    outputs = model.description.answer.outputs
    if changed is None:
        return 1.0, np.zeros(outputs)
    if not isinstance(changed.map, Straight) or changed.map.bound is not None:
        raise UsageError(
            "the recalibration of this model is no straight line, so contributions no longer add up to what it answers.",
            "Explain the model as it was trained: leave 'recalibration' out of a copy of its model.json.",
        )
    return changed.map.slope, np.array(changed.map.intercept)


Explained = tuple[dict[str, Floats], Floats]


def _linear(net: Linear, inputs: dict[str, Any], present: dict[str, Any], which: NDArray[np.int64]) -> Explained:
    """Return weight times input for every input, and the intercept."""
    with torch.no_grad():
        weight, bias = net.linear.weight.numpy(), net.linear.bias.numpy()
    row = which if len(weight) > 1 else np.zeros_like(which)  # odds that are proportional have one row of weights
    amounts, start = {}, 0
    for name in net.modalities:
        values = inputs[name].numpy() * present[name].numpy().reshape(-1, *[1] * (inputs[name].ndim - 1))
        size = values[0].size
        amounts[name] = values * weight[row, start : start + size].reshape(values.shape)
        start += size
    return amounts, bias[which]


def _integrated(net: Any, inputs: dict[str, Any], present: dict[str, Any], which: NDArray[np.int64]) -> Explained:
    """Return integrated gradients from every input at its mean, with more steps until little is left over."""
    try:
        integrated = importlib.import_module("captum.attr").IntegratedGradients
    except ImportError:
        raise UsageError(
            "this model is a network, and what explains networks is not installed.", "pip install 'pmfed[explain]'"
        ) from None
    names, chosen = sorted(inputs), torch.from_numpy(which)

    def forward(*given: torch.Tensor) -> torch.Tensor:
        times = len(given[0]) // len(chosen)
        seen = {name: present[name].repeat(times) for name in names}
        outputs: torch.Tensor = net(dict(zip(names, given, strict=True)), seen)
        return outputs.gather(1, chosen.repeat(times)[:, None])[:, 0]

    given = tuple(inputs[name] for name in names)
    origin = tuple(torch.zeros_like(one) for one in given)
    with torch.no_grad():
        baseline, output = forward(*origin).numpy(), forward(*given).numpy()
    for steps in STEPS:
        found = integrated(forward).attribute(given, origin, n_steps=steps, internal_batch_size=4096)
        amounts = {name: one.detach().numpy() for name, one in zip(names, found, strict=True)}
        told = sum(one.reshape(len(output), -1).sum(axis=1) for one in amounts.values())
        if np.all(np.abs(output - baseline - told) <= CLOSE * np.maximum(np.abs(output - baseline), 1e-3)):
            break
    return amounts, baseline


def natural(one: Input, value: float) -> float:
    """Return what an input says, in the units of its feature."""
    real = value * (one.scale or 1.0) + (one.mean or 0.0)
    return float(np.expm1(real)) if one.transform == "log1p" else real
