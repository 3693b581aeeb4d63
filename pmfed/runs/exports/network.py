"""A model as ONNX, with its scaling, its rules for what is missing and its answer inside, checked before it is kept."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pmfed.errors import RunError, UsageError
from pmfed.runs.description import Answer, Part, Straight
from pmfed.runs.links import LINKS
from pmfed.runs.model import Model
from pmfed.runs.predictors import network

CLOSE = 1e-5  # of an output in onnxruntime and here
TRIED = 64  # made-up records that are tried


class Natural(nn.Module):
    """A network that takes values in their own units, NaN where one is missing, and gives outputs and what they tell.

    Parameters
    ----------
    model
        A model of the method ``gradient``.

    Notes
    -----
    Given per modality, in order of name: values and whether each record has it. Values of a modality whose inputs are
    named in one row are float64 (N, F) in natural units; a column that says whether something is missing is worked out
    from the feature's own and may hold anything. Pictures are float32 pixels between 0 and 1. Features of a frozen
    network, and series, are float32 in their final form.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        changed = model.description.recalibration.map if model.description.recalibration is not None else None
        if changed is not None and not isinstance(changed, Straight):
            raise UsageError("a recalibration by steps has no place in this ONNX.", "Recalibrate its outputs yourself.")
        self.net = network(model)
        self.parts = dict(sorted(model.description.parts.items()))
        self.answer, self.changed = model.description.answer, changed
        for place, part in enumerate(self.parts.values()):
            if part.named:
                self._keep(place, part)

    def _keep(self, place: int, part: Part) -> None:
        """Keep what scales a modality's values, as constants of the graph."""
        inputs = part.inputs
        first = {one.feature: column for column, one in reversed(list(enumerate(inputs))) if one.says != "missing"}
        told: dict[str, list[Any]] = {
            "mean": [one.mean or 0.0 for one in inputs],
            "scale": [one.scale or 1.0 for one in inputs],
            "log": [one.transform == "log1p" for one in inputs],
            "low": [-np.inf if one.minimum is None else one.minimum for one in inputs],
            "high": [np.inf if one.maximum is None else one.maximum for one in inputs],
            "flag": [one.says == "missing" for one in inputs],
            "of": [first.get(one.feature, column) for column, one in enumerate(inputs)],
            "choice": [one.says == "category" for one in inputs],
        }
        for name, values in told.items():
            kind = {"log": torch.bool, "flag": torch.bool, "choice": torch.bool, "of": torch.int64}.get(
                name, torch.float64
            )
            self.register_buffer(f"{name}_{place}", torch.tensor(values, dtype=kind))
        features = [one.feature for one in inputs]
        together = torch.tensor([[float(a == b) for b in features] for a in features], dtype=torch.float64)
        own = torch.tensor([one.says == "category" for one in inputs])
        self.register_buffer(f"together_{place}", together * own)  # which categories are of one feature

    def _scaled(self, place: int, values: torch.Tensor) -> torch.Tensor:
        get: Callable[[str], Any] = lambda name: getattr(self, f"{name}_{place}")  # noqa: E731
        bad = values.isnan() | (values < get("low")) | (values > get("high"))
        clean = torch.where(bad, torch.zeros_like(values), values)
        moved = torch.where(get("log"), torch.log1p(torch.where(get("log"), clean, torch.zeros_like(clean))), clean)
        scaled = torch.where(bad, torch.zeros_like(moved), (moved - get("mean")) / get("scale"))
        chosen = torch.where(bad, torch.zeros_like(values), values) @ get("together").T
        choice = get("choice")  # a category is unknown when none of its feature is true
        unknown = (choice & (chosen <= 0)) | (~choice & bad)
        return torch.where(get("flag"), unknown[:, get("of")].double(), scaled).float()

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (N, out), recalibrated, and what they tell (N, ...)."""
        inputs, present = {}, {}
        for place, (name, part) in enumerate(self.parts.items()):
            values, seen = given[2 * place], given[2 * place + 1]
            if part.named:
                values = self._scaled(place, values)
            elif not part.inputs and part.weights is None:
                values = (values - (part.mean or 0.0)) / (part.scale or 1.0)
            shape = (-1, *[1] * (values.ndim - 1))
            inputs[name], present[name] = torch.where(seen.reshape(shape), values, torch.zeros_like(values)), seen
        outputs = self.net(inputs, present)
        if self.changed is not None:
            bound = self.changed.bound
            kept = outputs if bound is None else outputs.clamp(-bound, bound)
            intercept = torch.tensor(self.changed.intercept).reshape(1, -1, *[1] * (outputs.ndim - 2))
            outputs = intercept + self.changed.slope * kept
        return outputs, TELLS[self.answer.link](self.answer, outputs)


def _value(answer: Answer, outputs: torch.Tensor) -> torch.Tensor:
    real = outputs * (answer.scale or 1.0) + (answer.centre or 0.0)
    back: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "none": lambda x: x,
        "sqrt": lambda x: x.clamp(min=0) ** 2,
        "log": lambda x: x.clamp(max=80.0).exp(),
    }
    return back[answer.transform](real).clamp(answer.minimum, answer.maximum)


def _grades(outputs: torch.Tensor) -> torch.Tensor:
    reached = [outputs[:, :1].sigmoid()]
    for place in range(1, outputs.shape[1]):  # no running minimum in ONNX
        reached.append(torch.minimum(reached[-1], outputs[:, place : place + 1].sigmoid()))
    ends = torch.ones_like(reached[0]), torch.zeros_like(reached[0])
    return torch.cat([ends[0], *reached], dim=1) - torch.cat([*reached, ends[1]], dim=1)


TELLS: dict[str, Callable[[Answer, torch.Tensor], torch.Tensor]] = {
    "logistic": lambda answer, outputs: outputs.sigmoid(),
    "softmax": lambda answer, outputs: outputs.softmax(dim=1),
    "regression": _value,
    "hazards": lambda answer, outputs: (-nn.functional.softplus(outputs).cumsum(dim=1)).exp(),
    "rate": lambda answer, outputs: outputs.clamp(max=math.log(answer.maximum or 1.0)).exp(),
    "grades": lambda answer, outputs: _grades(outputs),
    "labels": lambda answer, outputs: outputs.sigmoid(),
}
assert TELLS.keys() == LINKS.keys()


def write_onnx(model: Model, path: Path) -> float:
    """Write a model as ONNX; return the largest difference between onnxruntime and this pmfed on made-up records.

    Raises
    ------
    UsageError
        What is needed for it is not installed.
    RunError
        The network cannot be written as ONNX, or answers otherwise there; nothing is kept.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some versions tell their makers of their use, from Linux too
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        onnx: Any = importlib.import_module("onnx")
        importlib.import_module("onnxscript")
    except ImportError:
        raise UsageError("what writes and checks ONNX is not installed.", "pip install 'pmfed[export]'") from None
    whole = Natural(model).eval()
    names = [f"{name}{end}" for name in whole.parts for end in ("", "_present")]
    given = made_up(model, TRIED)
    records = torch.export.Dim.AUTO  # a network that holds to so many records is found out below, with one
    tensors = tuple(torch.from_numpy(given[name]) for name in names)
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # the exporter's own deprecations are no news to who exports
            program = torch.onnx.export(
                whole, tensors, input_names=names, output_names=["outputs", "told"], dynamo=True, verbose=False,
                dynamic_shapes=(tuple({0: records} for _ in tensors),),
            )  # fmt: skip
            assert program is not None
            program.save(str(path))
    except Exception as error:  # the exporter raises of every kind
        raise RunError(f"this network cannot be written as ONNX ({type(error).__name__}).") from None
    graph = onnx.load(str(path))
    for key, said in {"pmfed model": json.dumps(_told(model)), "pmfed version": model.version}.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, said
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    worst = 0.0
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for size in (TRIED, 1):
            part = {name: values[:size] for name, values in given.items()}
            with torch.no_grad():
                right = whole(*(torch.from_numpy(part[name]) for name in names))
            for mine, its in zip(right, session.run(None, part), strict=True):
                apart = np.abs(mine.numpy() - its) / np.maximum(1.0, np.abs(mine.numpy()))
                worst = max(worst, float(apart.max()))
    except Exception as error:  # and so does the runtime
        path.unlink()
        raise RunError(f"onnxruntime does not run the model ({type(error).__name__}); nothing was kept.") from None
    if not worst <= CLOSE:
        path.unlink()
        raise RunError(f"in onnxruntime the model answers otherwise, by up to {worst:.2g}; nothing was kept.")
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from logging what it does without."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _told(model: Model) -> dict[str, Any]:
    """Return what stands in the file about its inputs and outputs."""
    parts = {
        name: {
            "given": "natural units, NaN where missing" if part.named else "pixels 0..1"
            if not part.inputs and part.weights is None else "final form, as pmfed's readers make it",
            "columns": [f"{one.name}{f' [{one.unit}]' if one.unit else ''}" for one in part.inputs],
        }
        for name, part in model.description.parts.items()
    }  # fmt: skip
    answer = model.description.answer
    return {
        "study": model.study.fingerprint(),
        "parts": parts,
        "told": LINKS[answer.link].exported,
        "answer": answer.model_dump(mode="json"),
    }


def made_up(model: Model, records: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return inputs of made-up records that a study allows, some of them missing, as the ONNX takes them."""
    random = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for name, part in sorted(model.description.parts.items()):
        if part.named:
            values = np.zeros((records, len(part.inputs)))
            chosen = {one.feature: random.random(records) for one in part.inputs}
            sizes = {key: sum(one.feature == key and one.says == "category" for one in part.inputs) for key in chosen}
            nth = dict.fromkeys(chosen, 0)
            for column, one in enumerate(part.inputs):
                if one.says == "category":
                    at = np.floor(chosen[one.feature] * (sizes[one.feature] + 1))  # the last one: none is true
                    values[:, column] = at == nth[one.feature]
                    nth[one.feature] += 1
                    continue
                low, high = one.minimum or 0.0, 2.0 if one.maximum is None else one.maximum
                values[:, column] = np.where(chosen[one.feature] < 0.2, np.nan, random.uniform(low, high, records))
            found[name] = values
        else:
            found[name] = random.uniform(0, 1, (records, *part.shape)).astype(np.float32)
        there = random.random(records) > 0.2
        found[f"{name}_present"] = there
    return found
