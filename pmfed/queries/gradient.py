"""Clipped gradients: the step of a common model, and the steps of a site's own. Answered by the engine in `privacy`."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from pmfed.privacy import accounting
from pmfed.privacy.accounting import Release
from pmfed.privacy.mechanism import GRID_STEPS, Mechanism, Unit
from pmfed.queries.query import Query, Shapes, Stage
from pmfed.secagg.grid import Grid
from pmfed.study import Study


@lru_cache(maxsize=32)
def model_size(study: Study) -> int:
    """Return how many numbers of the model travel: what stays at the sites is not among them."""
    from pmfed.models import shared_start

    return len(shared_start(study))


def model_state(query: Query) -> Shapes:
    """Return what comes down about a model: its parameters, followed by the learned means and scales if there are any."""
    from pmfed.cohort.statistics import statistics_size

    scales = statistics_size(query.study) if query.study.needs_statistics else 0
    return {"parameters": (np.float32, model_size(query.study) + scales)}


class Gradients(Query):
    """Gradients of the patients that were drawn, each clipped: what every kind of step has in common."""

    @property
    def rate(self) -> float:
        return self.study.privacy.sampling_rate

    @property
    def bound(self) -> float:
        return self.study.privacy.clip

    @property
    def unit(self) -> Unit:
        return self.study.privacy.unit

    @property
    def grid_unit(self) -> float:
        return self.study.privacy.clip / GRID_STEPS


class Step(Gradients):
    """One round of training: the sum of clipped gradients of the patients that were drawn (`fedsgd`)."""

    name: ClassVar[str] = "step"
    stage: ClassVar[Stage] = "round"
    repeats: ClassVar[bool] = True

    @property
    def times(self) -> int:
        return self.study.training.rounds

    def mechanism(self, sites: int) -> Mechanism:
        found = super().mechanism(sites)
        return found if self.study.parts is None else replace(found, local=True)

    @cached_property
    def size(self) -> int:
        return model_size(self.study)

    @cached_property
    def state(self) -> Shapes:
        return model_state(self)

    @property
    def label(self) -> str:
        return "training"

    def leaves(self) -> str:
        return f"{self.times} times a sum over patients of {self.size} numbers, clipped, with noise, under a mask"


class LocalSteps(Step):
    """One round of training: how far the model moved in some private steps at the site (`fedavg`).

    It is no bounded sum: every local step is a sampled Gaussian mechanism with the whole noise, and the move that leaves
    is made of nothing else. It is bounded for the grid only. Control variates are made of such moves: the coordinator's
    of their sum, a site's of its own ones, which hold the whole noise before anything else looks at them.
    """

    @property
    def charged_at_once(self) -> int:
        return self.study.training.local_steps

    @cached_property
    def state(self) -> Shapes:
        control = {"control": (np.float32, self.size)} if self.study.training.control_variates else {}
        return {**model_state(self), **control}

    @property
    def grid_unit(self) -> float:
        return 2.0**-20

    def grid(self, sites: int) -> Grid:
        return Grid(self.grid_unit, sites)

    def leaves(self) -> str:
        return (
            f"{self.times} times by how much a model of {self.size} numbers moved in {self.charged_at_once} private "
            "step(s) here, under a mask"
        )


def step_of(study: Study) -> Step:
    """Return the query of a study's rounds."""
    return Step(study) if study.training.algorithm == "fedsgd" else LocalSteps(study)


class OwnSteps(Gradients):
    """The steps a site takes for a model of its own. Nothing of them leaves; they are charged as if it did."""

    name: ClassVar[str] = "personal"
    stage: ClassVar[Stage] = "within"

    @property
    def times(self) -> int:
        assert self.study.tuned is not None
        return self.study.tuned.over(self.study.training.rounds)

    @cached_property
    def noise(self) -> float:
        """The least noise within the share of the epsilon that these steps have by themselves."""
        assert self.study.tuned is not None
        privacy = self.study.privacy
        return accounting.noise_for(
            lambda multiplier: (Release(self.rate, multiplier, self.times),),
            self.study.tuned.share * privacy.epsilon,
            privacy.delta,
        )

    def mechanism(self, sites: int) -> Mechanism:
        # Nobody else's noise counts in what a site does for itself.
        return Mechanism(self.name, self.whose, self.unit, self.rate, self.noise, self.bound, self.times, 1, 0)

    @property
    def size(self) -> int:
        return 0

    @property
    def label(self) -> str:
        return "the steps of each site's own model"

    @property
    def key(self) -> str:
        return "personal.share"

    @property
    def cheaper(self) -> str:
        return "Lower personal.share."

    def leaves(self) -> str:
        assert self.study.tuned is not None
        return f"nothing of a model of this site's own ({self.study.tuned.method}); its steps are in the price"
