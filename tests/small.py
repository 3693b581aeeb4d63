"""A small study: a test says what it is about, and of the rest there is as little as a study may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.trainer import Trainer

from pmfed.queries.scores import Scores
from pmfed.study import Study

AGE = {"age": {"type": "numeric", "minimum": 0, "maximum": 120, "mean": 60, "scale": 15}}


def small_study(modalities: dict[str, dict[str, Any]], **sections: dict[str, Any]) -> Study:
    """Return a study of a binary outcome with these modalities; keys of other sections are added or replaced."""
    said: dict[str, dict[str, Any]] = {
        "study": {"name": "small", "title": "A small study"},
        "cohort": {"table": "patients", "expected_patients": 200},
        "outcome": {"column": "died", "task": "binary", "classes": ["no", "yes"]},
        "modalities": modalities,
        "training": {"rounds": 2, "optimizer": {"learning_rate": 0.1}},
        "privacy": {"epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.5},
    }
    for name, keys in sections.items():
        said[name] = {**said.get(name, {}), **keys}
    return Study.model_validate(said)


def scores(trainer: Trainer, sent: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the exact sums of a site's scores by a model, as the site itself computes them."""
    site = Answers(trainer.study, trainer.plan, trainer.cohort, trainer.draw)
    site.trainer = trainer
    return site.exact(Scores(trainer.study), {"parameters": sent})
