"""From a finished model and patients to outputs: one function per method, found by the name in ``model.json``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pmfed.cohort import Cohort
from pmfed.errors import UsageError, VerificationError
from pmfed.models import build
from pmfed.recalibration import Line
from pmfed.runs.arrays import REMEDY
from pmfed.runs.description import Map, RecalibrationStep, Steps
from pmfed.runs.model import Model

Floats = NDArray[np.float64]
Predictor = Callable[[Cohort], Floats]

TOGETHER, NUMBERS = 4096, 1 << 20  # most records at a time, and most numbers of one of their inputs


def predictor(model: Model) -> Predictor:
    """Return the function that gives a model's outputs, (R, out) or (R, out, ...), for the records of a cohort.

    Raises
    ------
    UsageError
        This pmfed does not know the method, or parts of the model stayed at the sites.
    VerificationError
        The arrays are not those of the study's model.
    """
    method = model.description.method
    if method not in PREDICTORS:
        raise UsageError(
            f"the model was made by the method '{method}', with which this pmfed does not predict.",
            f"It predicts with: {', '.join(sorted(PREDICTORS))}. Is there a newer pmfed?",
        )
    outputs, changed = PREDICTORS[method](model), model.description.recalibration
    return lambda cohort: recalibrated(changed, outputs(cohort))


def network(model: Model) -> nn.Module:
    """Return the network of a model that the method ``gradient`` made, with its parameters.

    Raises
    ------
    UsageError, VerificationError
        As for `predictor`.
    """
    net = build(model.study)
    if absent := model.description.absent_parts:
        raise UsageError(
            f"{len(absent)} part(s) of this model never left the sites, such as '{absent[0]}': the common model alone "
            "gives no answer.",
            "A site that took part has its own: pmfed predict RUN --site DIR --own",
        )
    given = {name: one for name, one in net.named_parameters() if one.requires_grad}
    found = model.parameters
    if given.keys() != found.keys() or any(
        tuple(given[name].shape) != found[name].shape or found[name].dtype != np.float32 for name in given
    ):
        raise VerificationError("the arrays are not the parameters of the study's model.", REMEDY)
    with torch.no_grad():
        for name, parameter in given.items():
            parameter.copy_(torch.from_numpy(found[name].copy()))
    return net.eval()


def _of_network(model: Model) -> Predictor:
    net = network(model)

    def outputs(cohort: Cohort) -> Floats:
        size = max(1, min(TOGETHER, NUMBERS // max(values[0].size for values in cohort.inputs.values())))
        found = []
        with torch.no_grad():
            for start in range(0, cohort.records, size):
                part = slice(start, start + size)
                inputs = {name: torch.from_numpy(values[part]) for name, values in cohort.inputs.items()}
                present = {name: torch.from_numpy(seen[part]) for name, seen in cohort.present.items()}
                found.append(net(inputs, present).double().numpy())
        return np.concatenate(found)

    return outputs


PREDICTORS: dict[str, Callable[[Model], Predictor]] = {"gradient": _of_network}


def recalibrated(changed: RecalibrationStep | None, outputs: Floats) -> Floats:
    """Return outputs as a recalibration changes them; as they are without one."""
    return outputs if changed is None else _mapped(changed.map, outputs)


def _mapped(changed: Map, outputs: Floats) -> Floats:
    if isinstance(changed, Steps):
        if outputs.shape[1:] != (1,):
            raise VerificationError("a recalibration by steps belongs to a model of one output.", REMEDY)
        return np.interp(outputs, changed.at, changed.value)
    if len(changed.intercept) != outputs.shape[1]:
        raise VerificationError("the recalibration has not an intercept per output.", REMEDY)
    bounded = outputs if changed.bound is None else np.clip(outputs, -changed.bound, changed.bound)
    return Line(changed.intercept, changed.slope)(bounded)
