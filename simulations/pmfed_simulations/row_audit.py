"""The audit of queries that are sums of rows: their noise, and what one patient can do to them, by the site's own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.trainer import Draw

from pmfed.cohort import Cohort
from pmfed.methods import schedule
from pmfed.privacy.audit import Check, noise_check, sensitivity_check, site_std
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.query import RowSum
from pmfed.queries.scores import OwnScores
from pmfed.recalibration import Line
from pmfed.study import Study

Floats = npt.NDArray[np.float64]

REMOVED = 12  # patients who are left out one by one
HUGE = (1e6, 1e30, np.nan)  # what a patient's inputs are made; a reader would refuse them


class RowAudit:
    """The checks of every query of a schedule that is a noised sum of rows.

    Parameters
    ----------
    study, plan
        What is claimed.
    cohort
        Patients of all sites; each query sees those of its role.
    draw
        Where an agent takes its randomness from.
    sent
        A state that a coordinator could send, for queries that come with one.
    """

    def __init__(
        self, study: Study, plan: PrivacyPlan, cohort: Cohort, draw: Draw, sent: npt.NDArray[np.float32] | None = None
    ) -> None:
        self.study, self.plan, self.cohort, self.draw, self.sent = study, plan, cohort, draw, sent

    def checks(self) -> list[Check]:
        """Return what was found of each query."""
        found = []
        for query in schedule(self.study):
            # Not the scores of models that a site trains for itself first.
            if isinstance(query, RowSum) and query.name in self.plan and not isinstance(query, OwnScores):
                found += [self._noise(query), self._one_patient(query)]
        return found

    def _noise(self, query: RowSum) -> Check:
        """Release a sum of rows many times, less what it is about: what is left must be noise."""
        answers, state = Answers(self.study, self.plan, self.cohort, self.draw), self._state(query)
        exact, grid, sites = answers.exact(query, state), query.grid(self.plan.sites), self.plan.sites
        released = [
            grid.decode(answers.answer(query, state, sites, 0, number)["sum"]) - exact
            for number in range(-(-1000 // len(exact)))
        ]
        std = site_std(self.plan[query.name])
        return noise_check(f"noise on {query.label}", {"all": np.stack(released)}, std, grid.unit)

    def _one_patient(self, query: RowSum) -> Check:
        """Leave patients out one by one, as they are and with inputs that no reader would let through."""
        changes, mixing = [], []
        chosen = np.linspace(0, self.cohort.patients - 1, min(REMOVED, self.cohort.patients)).astype(int)
        for make in (lambda cohort, _: cohort, *(_spoilt(value) for value in HUGE)):
            for patient in chosen:
                cohort = make(self.cohort, patient)
                alone = np.arange(cohort.patients) == patient
                own = self._sum(query, cohort.select(alone))
                change = self._sum(query, cohort) - self._sum(query, cohort.select(~alone))
                changes.append(float(np.linalg.norm(change)))
                mixing.append(float(np.linalg.norm(change - own)))
        check = sensitivity_check(np.array(changes), np.array(mixing), query.bound)
        return replace(check, name=f"one patient in {query.label}")

    def _sum(self, query: RowSum, cohort: Cohort) -> Floats:
        return Answers(self.study, self.plan, cohort, self.draw).exact(query, self._state(query))

    def _state(self, query: RowSum) -> dict[str, npt.NDArray[Any]]:
        state: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(size, dtype=kind) for name, (kind, size) in query.state.items()
        }
        if "parameters" in state:
            assert self.sent is not None
            state["parameters"] = self.sent
        if "recalibration" in query.state:
            state["recalibration"] = Line.none(query.state["recalibration"][1] - 1).vector
        return state


def _spoilt(value: float) -> Callable[[Cohort, int], Cohort]:
    """Return what gives one patient inputs of a value."""

    def make(cohort: Cohort, patient: int) -> Cohort:
        whose = cohort.owner == patient
        inputs = {name: block.copy() for name, block in cohort.inputs.items()}
        for block in inputs.values():
            block[whose] = value
        return replace(cohort, inputs=inputs)

    return make
