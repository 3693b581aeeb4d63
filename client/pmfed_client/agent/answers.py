"""What a site answers to a query: a bounded sum over its patients, noised as the plan says, on the grid.

What `Answers.answer` returns is ready to leave, and nothing but sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pmfed.cohort import Cohort
from pmfed.errors import ProtocolError
from pmfed.privacy.mechanism import Role
from pmfed.privacy.noise import LARGEST
from pmfed.privacy.plan import PrivacyPlan
from pmfed.privacy.precision import Precision
from pmfed.queries.bounded import bounded_sum
from pmfed.queries.gradient import Step
from pmfed.queries.query import Query, RowSum, check_fits
from pmfed.recalibration import Line
from pmfed.secagg.grid import Words
from pmfed.study import Study
from pmfed.wire import Shapes
from pmfed_client.agent.personal import Shelf
from pmfed_client.agent.trainer import Draw, Trainer

Sums = dict[str, Words]
State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Lent:
    """The patients a query may look at, and the loaded model's outputs for them, recalibrated by a line if one came."""

    cohort: Cohort
    trainer: Trainer | None
    site: Cohort
    whose: Role
    line: Line | None = None

    def as_read(self) -> Cohort:
        """Return the patients of the query's role as they were read."""
        return _of_role(self.site, self.whose)

    def outputs(self, part: slice) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the outputs of the model for some records, (records, out, ...), and which records' are finite."""
        assert self.trainer is not None, "this study has no model"
        outputs, finite = self.trainer.outputs(self.cohort, part)
        return (outputs if self.line is None else self.line(outputs)), finite


class Answers:
    """A study's queries, answered from one site's patients.

    Parameters
    ----------
    study
        What is learned.
    plan
        The mechanisms; the ledger was charged by the very same object.
    cohort
        The site's patients.
    draw
        ``draw(query, round, attempt)`` gives the randomness of one release.
    shelf
        Where the site keeps what is its own; a study with ``[personal]`` needs it.
    device, precision
        Where a model trains, see `Trainer`.

    Attributes
    ----------
    trainer
        The gradient engine, where the study's method trains a model.
    """

    def __init__(
        self, study: Study, plan: PrivacyPlan, cohort: Cohort, draw: Draw, shelf: Shelf | None = None,
        device: str = "cpu", precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.plan, self.cohort, self.draw = plan, cohort, draw
        self.trainer = Trainer(study, plan, cohort, draw, shelf, device, precision) if "step" in plan else None

    def shapes(self, query: Query, sites: int) -> Shapes:
        """Return what the arrays that may leave are made of, and their lengths, by name."""
        word = query.grid(sites).word
        own = {"site": (word, query.size)} if query.by_site else {}
        return {"sum": (word, query.size), **own}

    def answer(self, query: Query, state: State, sites: int, round: int, attempt: int) -> Sums:
        """Return this site's share of one answer.

        Parameters
        ----------
        query
            One of the study's schedule.
        state
            The named arrays that came with it.
        sites
            Sites in this attempt.
        round, attempt
            Name the randomness.

        Guarantee
        ---------
        Only the gradient engine sums by itself (`Trainer.step`). The rows of every other query are clipped to its bound, patient by
        patient, whatever it made of them; noise of the plan's share is added before rounding. Nothing else leaves, but
        for exact sums of studies and sites that allow them.
        """
        if isinstance(query, Step) and self.trainer is not None:  # by its class: a plug-in cannot call itself one
            return {"sum": self.trainer.step(state["parameters"], sites, round, attempt, state.get("control"))}
        if not isinstance(query, RowSum):
            raise ProtocolError(f"'{query.name}' cannot be asked by itself. Nothing was released.")
        grid = query.grid(sites)
        if query.exact:
            words = grid.encode(self.exact(query, state))
            return {"sum": words, "site": words.copy()} if query.by_site else {"sum": words}  # one of the two is masked
        mechanism = self.plan[query.name]
        check_fits(query, mechanism, self.cohort.patients, sites, LARGEST)
        std = mechanism.noise_std(sites)  # first: a refusal computes nothing
        if mechanism.private:
            grid.require_noise(std)
        total = self.exact(query, state)
        return {"sum": grid.encode(total + self.draw(query.name, round, attempt).gaussian(query.size, std))}

    def exact(self, query: RowSum, state: State) -> npt.NDArray[np.float64]:
        """Return a query's bounded sum WITHOUT noise; it stays here."""
        lent = self.lent(query, state)
        return bounded_sum(query.rows(lent, state), query.size, query.bound, lent.cohort.patients)

    def lent(self, query: RowSum, state: State) -> Lent:
        """Return what a query may look at, with the model it came with loaded."""
        if query.scaled and self.trainer is not None:
            patients = self.trainer.scored(query, state["parameters"])
        else:
            patients = _of_role(self.cohort, query.whose)
        line = Line.of(state["recalibration"]) if "recalibration" in query.state else None
        return Lent(query.seen(patients), self.trainer, self.cohort, query.whose, line)


def _of_role(cohort: Cohort, whose: Role) -> Cohort:
    return cohort if whose == "all" else cohort.select(cohort.training == (whose == "train"))
