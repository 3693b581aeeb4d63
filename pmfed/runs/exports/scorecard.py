"""A linear model as a scorecard: JSON that a program of ten lines can evaluate."""

from __future__ import annotations

from typing import Any

from pmfed.errors import UsageError
from pmfed.explain.coefficients import linearly
from pmfed.runs.answers import horizon
from pmfed.runs.model import Model

HOW = (
    "output = intercept + sum of coefficient * input. The input of a term is (transform(value) - mean) / scale, transform "
    "being log(1 + value) or none; 1 or 0 for a category, and for 'missing', which is whether the feature's value is not "
    "known; the count for an allele. A value that is not known, or lies outside minimum to maximum, has the input 0. "
    "Then recalibration, if any, and the answer's link."
)


def scorecard(model: Model) -> dict[str, Any]:
    """Return a linear model as JSON: intercepts, a term per input, and how they become the answer.

    Raises
    ------
    UsageError
        The model is not linear, or looks at what has no names; or at notes, whose words nobody counts by hand.
    """
    linear, description, study = linearly(model), model.description, model.study
    terms = []
    for one in linear.coefficients:
        told = one.told
        assert told is not None
        if told.says == "word":
            raise UsageError("this model reads notes, and a scorecard cannot.", "Use --to onnx.")
        term = told.model_dump(mode="json", exclude_none=True, exclude={"name", "learned"})
        term |= {"term": one.name, "feature": one.feature}
        terms.append({**term, "mean": told.mean or 0.0, "scale": told.scale or 1.0, "coefficient": list(one.weight)})
    return {
        "what": "pmfed scorecard",
        "version": 1,
        "model": model.version,
        "study": study.fingerprint(),
        "title": study.study.title,
        "description": study.study.description,
        "predicts": horizon(description.answer),
        "how": HOW,
        "intercept": list(linear.intercept),
        "terms": terms,
        "answer": description.answer.model_dump(mode="json", exclude_none=True),
        "index": None if description.index is None else description.index.model_dump(mode="json"),
        "recalibration": None
        if description.recalibration is None
        else description.recalibration.model_dump(mode="json"),
    }
