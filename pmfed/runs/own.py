"""A site's own model of a run, as the site keeps it: read as strictly as the common one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from pmfed.errors import UsageError, VerificationError
from pmfed.models import build
from pmfed.runs.arrays import HEADER, array_of
from pmfed.runs.model import STATISTICS, Model, centres_of, describe
from pmfed.wire import RunId

REMEDY = "Do not use it. The site's next run makes another; the common model needs none."


def run_number(run: Path) -> str:
    """Return the id that ledgers know a run by.

    Raises
    ------
    UsageError
        The folder does not tell.
    """
    try:
        if (run / "run-id").is_file():
            said = (run / "run-id").read_text(encoding="utf-8").strip()
        else:
            said = json.loads((run / "run.json").read_text(encoding="utf-8"))["id"]
        number: str = TypeAdapter(RunId).validate_python(said)
        return number
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        raise UsageError(f"{run}: does not say which run it is of.", "Name the folder of a finished run.") from None


def own_model(model: Model, path: Path) -> Model:
    """Return the same model with a site's own parameters in place of the common ones.

    Parameters
    ----------
    model
        The common model of the run.
    path
        ``personal/RUN.safetensors`` in the site's folder.

    Raises
    ------
    UsageError
        There is none.
    VerificationError
        It is not this study's, or not what such a file holds.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: this site has no model of its own of this run.",
            "Leave out --own, or name the site that took part in this run.",
        )
    given = {name: one for name, one in build(model.study).named_parameters() if one.requires_grad}
    size = sum(4 * one.numel() for one in given.values()) + 8 * 2**20
    try:
        if path.stat().st_size > size + HEADER:
            raise VerificationError(f"{path}: is larger than a model of this study.", REMEDY)
        with safe_open(path, framework="numpy", backend="pread") as file:
            header = (file.metadata() or {}).get("study", "")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise VerificationError(f"{path}: cannot be read ({type(error).__name__}).", REMEDY) from None
    if hashlib.sha256(header.encode()).hexdigest() != model.study.fingerprint():
        raise VerificationError(f"{path}: belongs to another study.", REMEDY)
    statistics = arrays.get(STATISTICS)
    fits = arrays.keys() - {STATISTICS} == given.keys() and all(
        one.dtype == np.float32 and np.isfinite(one).all() for one in arrays.values()
    )
    if not fits or (statistics is None) != (STATISTICS not in model.arrays):
        raise VerificationError(f"{path}: holds other arrays than a model of this study.", REMEDY)
    try:
        whole = {**arrays, **centres_of(model.study, statistics)}
    except (AssertionError, ValueError):
        raise VerificationError(f"{path}: holds other arrays than a model of this study.", REMEDY) from None
    roles = {
        name: model.description.arrays[name].role if name in model.description.arrays else "parameter" for name in whole
    }
    described = describe(
        model.study,
        model.description.method,
        {name: array_of(roles[name], one) for name, one in whole.items()},
        statistics,
    )
    version = hashlib.sha256(json.dumps(described.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    return replace(model, description=described, arrays=whole, version=version)
