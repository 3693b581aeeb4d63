"""Which parameters of a model stay at the site: a head, the normalisation layers, the intercept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn

from pmfed.errors import StudyError
from pmfed.study import Study

INTERCEPT = frozenset({"head.bias", "linear.bias"})
"""The output's own constants: what a model says of somebody of whom nothing is known."""

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def stays(study: Study, model: nn.Module) -> frozenset[str]:
    """Return the names of the trainable parameters that never leave a site; none without ``[personal]`` parts.

    Raises
    ------
    StudyError
        The model has no such parts, or nothing else.
    """
    if study.parts is None:
        return frozenset()
    method = study.parts.method
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if method == "norms":
        modules = [name for name, module in model.named_modules() if isinstance(module, NORMS)]
        own = {f"{name}.{part}" for name in modules for part in ("weight", "bias")}
    elif method == "head":
        own = {name for name in trained if name.startswith("head.")}
    else:
        own = set(INTERCEPT)
    found = frozenset(own & trained)
    if not found or found == trained:
        raise StudyError(
            f"personal.method: this model has {'nothing but' if found else 'no'} {method} parameters.",
            "Choose another method, or another model.",
        )
    return found


def stay_mask(study: Study, model: nn.Module) -> npt.NDArray[np.bool_]:
    """Return which numbers of ``flatten(model)`` stay at the site."""
    return _mask(model, stays(study, model))


def intercept_mask(study: Study, model: nn.Module) -> npt.NDArray[np.bool_]:
    """Return which of the numbers that travel are the output's own constants; none of a UNet, or where they stay."""
    return _mask(model, INTERCEPT)[~stay_mask(study, model)]


def _mask(model: nn.Module, names: frozenset[str]) -> npt.NDArray[np.bool_]:
    parts = [np.full(p.numel(), name in names) for name, p in model.named_parameters() if p.requires_grad]
    return np.concatenate(parts)
