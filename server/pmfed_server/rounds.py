"""The coordinator's side of a run: enrol, statistics, rounds, evaluation, receipts.

Read `Rounds.run` aloud: it is the way of the data. A round is one noisy step over all sites; when a site fails, the
attempt is thrown away and repeated by those that remain, with fresh patients, fresh noise in larger shares, and a
fresh charge. The sites agreed to so many charges and no more, so a run with retries takes fewer steps, never more.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from pmfed.cohort.statistics import statistics_size
from pmfed.errors import BudgetError, RunError
from pmfed.models import shared_start
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.grid import Grid as Rounding
from pmfed.secagg.grid import evaluation_grid, gradient_grid, statistics_grid
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed.tasks.task import measured
from pmfed.wire import Kind, Request
from pmfed_server.checkpoint import read_checkpoint, write_atomically, write_checkpoint
from pmfed_server.enrolment import Enrolment, Registered, listed, name
from pmfed_server.fleet import Fleet, Model
from pmfed_server.optimizer import ServerOptimizer
from pmfed_server.outcome import Evaluated, Outcome
from pmfed_server.sums import Summed, Sums

log = logging.getLogger("pmfed.server")

AWAY = "was not there when the run was taken up again"


class Tried(NamedTuple):
    """An attempt: its number, what came of it, and the grid its words are on."""

    attempt: int
    summed: Summed
    grid: Rounding


class Rounds:
    """One run of a study over the sites of a Flower grid.

    Parameters
    ----------
    grid
        Flower's grid.
    study
        What is learned.
    plan
        The privacy plan the progress is told by; every site computes its own from the study.
    folder
        RUN/: progress goes to metrics.jsonl and checkpoints/.
    run
        32 hex digits; the sites' ledgers know the run by it.
    sites
        How many sites to wait for.
    patience
        Seconds to wait for sites and for answers.
    registered
        Tells whose card each node's key came with; None where nodes have no keys.
    """

    def __init__(
        self, grid: Grid, study: Study, plan: PrivacyPlan, folder: Path, *, run: str, sites: int, patience: float,
        registered: Registered | None = None,
    ) -> None:  # fmt: skip
        self.study, self.plan, self.folder = study, plan, folder
        self.run_id, self.expected = run, sites
        self.fleet = Fleet(grid, patience)
        self.task = task_for(study)
        self.optimizer = ServerOptimizer(study.training, shared_start(study), folder)
        self.enrolment = Enrolment(self.fleet, study, self._request, registered)
        self.sites = self.enrolment.sites
        self.sums = Sums(self.fleet, study, self.enrolment, folder)
        self.statistics: npt.NDArray[np.float32] | None = None
        self.names: tuple[str, ...] = ()
        self.left: dict[str, str] = {}
        self.evaluated: Evaluated | None = None
        self.personal: Evaluated | None = None
        self._evaluations: dict[int, Evaluated] = {}
        self.round = self.charged = self.resumes = 0
        self.train_seconds = 0.0
        self.spent = spending(plan, study.training.local_steps)

    def run(self) -> Outcome:
        """Take the run from wherever it stands to its end.

        Raises
        ------
        RunError
            Too few sites enrolled, or too few were left in a round.
        """
        self._resume()
        if self.evaluated is None or (self.study.tuned and self.personal is None):
            self._enroll()
            if self.study.needs_statistics and self.statistics is None:
                self._learn_statistics()
            if self.evaluated is None:
                self._train()
                self.evaluated = self._evaluate(self.round)
                self._checkpoint()
            if self.study.tuned:
                self.personal = self._personalise()
            self._checkpoint()  # sites forget a run once it is finished; nothing may be needed from them after that
        receipts = self._finish()
        many = max(1, len(self.names))
        refused = {site: why for site, why in self.enrolment.refused.items() if site not in self.names}
        return Outcome(
            self.names, self.plan, self.enrolment.masked, refused, self.evaluated, receipts, self.optimizer.result, self.statistics,
            self.charged, self.round, self.train_seconds, self.fleet.bytes_up / many, self.fleet.bytes_down / many,
            self.enrolment.insecure, self.enrolment.versions, self.personal, self.left,
        )  # fmt: skip

    # -- the legs -------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        found = read_checkpoint(self.folder / "checkpoints")
        if found is None:
            return
        state, progress = found
        self.optimizer.restore(state)
        self.statistics = state["statistics"][:] if "statistics" in state else None
        self.names = tuple(progress["sites"])
        self.left = dict(progress.get("left", {}))
        self.round = int(progress["round"])
        self.resumes = int(progress["resumes"]) + 1
        if "evaluation" in state:
            self.evaluated = Evaluated.of_state(state, "evaluation")
            if "personal" in state:
                self.personal = Evaluated.of_state(state, "personal")
            self.charged = int(progress["charged"])
        else:
            # The round under way when the coordinator died may have been charged: count it as if it had.
            self.charged = min(int(progress["charged"]) + 1, self.study.training.rounds)
        log.info("resuming after round %d", self.round)

    def _enroll(self) -> None:
        nodes = self.fleet.gather(self.expected)
        self.plan = replace(self.plan, sites=len(nodes))
        self.enrolment.enrol(nodes)
        there, refused = sorted(self.sites.values()), self.enrolment.refused
        # Who took part before a resume was charged, and has left if it does not agree again.
        self.left = {site: refused.get(site, AWAY) for site in self.names if site not in there}
        self.names = tuple(sorted({*self.names, *there}))
        agreed = {"sites": there, "refused": {**refused, **self.left}}  # for whoever follows the run
        write_atomically(self.folder / "enrolled.json", json.dumps(agreed).encode())
        self._checkpoint()  # a run killed in its first round must know, when resumed, that it had begun

    def _learn_statistics(self) -> None:
        """Learn means and scales: charged once in a run, so there is one attempt, and what can be read is taken."""
        roster = self.enrolment.roster()
        self._check_quorum(roster, 0)
        grid = statistics_grid(self.study, len(roster))
        request = self._request("statistics", attempt=self.resumes)
        summed = self.sums.collect(request, roster, statistics_size(self.study), grid.word)
        self._note(summed, roster)
        if summed.total is None:
            raise RunError(
                "federated means and scales could not be learned.\n"
                + listed({name(answer): answer.problem for answer in summed.failed}),
                "They are charged once in a run. If they were charged and lost, start the study in a new folder.",
            )
        self.statistics = grid.decode(summed.total).astype(np.float32)
        self._checkpoint()

    def _train(self) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            while self.round < self.study.training.rounds and self.charged < self.study.training.rounds:
                line = self._one_round()
                if line is None:
                    break
                every = self.study.evaluation.every
                if self.study.evaluation.release == "exact" and (self.round % every == 0 or self.round == 1):
                    line["metrics"] = self.measure(self._evaluate(self.round))
                lines.write(json.dumps(line) + "\n")
                lines.flush()

    def _one_round(self) -> dict[str, Any] | None:
        """Take one step; return its line for metrics.jsonl, or None when the sites' budget ends here."""
        started = time.perf_counter()
        up, down = self.fleet.bytes_up, self.fleet.bytes_down
        number = self.round + 1
        dropped: dict[str, str] = {}
        for tried in self._attempts("step", number, self._size, gradient_grid, self._model):
            summed = tried.summed
            if not summed.nodes and all(answer.code == BudgetError.code for answer in summed.failed):
                return None
            self.charged += 1
            for answer in summed.failed:
                site = self.sites[answer.node]
                dropped[site] = self.left[site]
                log.warning("round %d: %s: %s", number, site, dropped[site])
            if summed.total is not None:
                break
            if self.charged >= self.study.training.rounds:
                return None
        assert summed.total is not None
        for node in summed.nodes:
            self.enrolment.strikes[node] = 0
        self._apply(summed.total, tried.grid, len(summed.nodes))
        self.round = number
        self._checkpoint()
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        return {
            "round": number,
            "epsilon": self.spent(self.charged),
            "sites": len(summed.nodes),
            "attempt": tried.attempt,
            "dropped": dropped,
            "seconds": round(seconds, 4),
            "bytes_up": self.fleet.bytes_up - up,
            "bytes_down": self.fleet.bytes_down - down,
        }

    def _apply(self, total: npt.NDArray[Any], grid: Rounding, sites: int) -> None:
        if self.study.training.algorithm == "fedavg":
            self.optimizer.replace(lambda part: grid.decode(total[part]) / sites)
        else:
            # The divisor is public. The true batch size would tell how many patients took part.
            expected = self.plan.sampling_rate * self.study.cohort.expected_patients
            self.optimizer.step(lambda part: grid.decode(total[part]) / expected)

    def _personalise(self) -> Evaluated:
        """Have the sites finish the models of their own, and ask for the sums over held-out patients.

        The common model is whole by now: when too few sites answer, the result has no figures of their own models.
        """
        try:
            return self._evaluate(self.round, "personal")
        except RunError as error:
            log.warning("the sites' own models were not measured: %s", error)
            return Evaluated(np.zeros(self.task.cells))

    def _evaluate(self, number: int, kind: Kind = "evaluate") -> Evaluated:
        """Ask for the sums over held-out patients.

        A private release is charged once in a run and cannot be asked for again: when a site is missing, the noise of
        the others is less than was promised, so the sum is thrown away and the result has no held-out figures.
        """
        if kind == "evaluate" and self._evaluations.get(number):
            return self._evaluations[number]
        model = lambda: self._sent(self.optimizer.result)  # noqa: E731
        for tried in self._attempts(kind, number, self.task.cells, evaluation_grid, model):
            summed, grid = tried.summed, tried.grid
            if summed.total is not None:
                break
            if self.study.evaluation.release == "private":
                asked = len(summed.nodes) + len(summed.failed)
                log.warning("the evaluation (%s) is lost: %d of %d sites answered", kind, len(summed.nodes), asked)
                return Evaluated(np.zeros(self.task.cells))
        assert summed.total is not None
        evaluated = Evaluated(grid.decode(summed.total))
        for node in summed.nodes:
            if node in summed.own:
                evaluated.per_site[self.sites[node]] = grid.decode(summed.own[node])
        if kind == "evaluate":
            self._evaluations = {number: evaluated}  # the last round's is the result's, too
        return evaluated

    def _finish(self) -> dict[str, str]:
        resumed = not self.sites  # for nothing but the receipts: who is away by now cannot keep the result from anybody
        nodes = self.fleet.gather(self.expected, least=0) if resumed else list(self.sites)
        answers = self.fleet.ask(self._request("finish", round=self.round, sites=len(nodes)), nodes)
        receipts = {
            self.sites.get(answer.node, answer.reply.site): answer.reply.text
            for answer in answers
            if answer.reply and answer.ok
        }
        for site in sorted(set(self.names) - set(receipts)):
            if resumed:
                self.left.setdefault(site, AWAY)
            log.warning("%s: sent no receipt%s", site, "; it had left" if site in self.left else "")
        return receipts

    # -- helpers --------------------------------------------------------------------------------------------------

    def _attempts(
        self, kind: Kind, number: int, size: int, grid_of: Callable[[Study, int], Rounding], model: Model
    ) -> Iterator[Tried]:
        """Ask for a sum, and again as long as whoever asked wants to: each time without those that failed before.

        Each attempt has another number, and so fresh patients, fresh noise and fresh masks.
        """
        roster = self.enrolment.roster()
        first = 100 * self.resumes
        for attempt in count(first):
            self._check_quorum(roster, number)
            if attempt > first:
                self._checkpoint()  # the attempt before was charged, whatever becomes of this one
            grid = grid_of(self.study, len(roster))
            summed = self.sums.collect(
                self._request(kind, round=number, attempt=attempt), roster, size, grid.word, model
            )
            self._note(summed, roster)
            yield Tried(attempt, summed, grid)
            gone = {answer.node for answer in summed.failed}
            known = all(self.enrolment.has_keys(node) for node in gone)
            roster = [node for node in roster if node not in gone] if known else self.enrolment.roster()

    def _note(self, summed: Summed, roster: Sequence[int]) -> None:
        """Note which sites gave nothing, and which were not even asked."""
        self.enrolment.note(summed.failed)
        failed = {self.sites[one.node]: one.problem or "sent a vector of the wrong length" for one in summed.failed}
        self.left = {**self._away(roster), **failed}

    def _away(self, roster: Sequence[int]) -> dict[str, str]:
        """Return who took part and is not asked, and why."""
        asked = {self.sites[node] for node in roster}
        connected = {self.sites[node] for node in self.sites.keys() & self.enrolment.connected}
        reasons = {
            site: "the others had no keys with it" if site in connected else "is not connected" for site in self.names
        }
        return {site: self.left.get(site, why) for site, why in reasons.items() if site not in asked}

    @property
    def _size(self) -> int:
        return len(self.optimizer.parameters)

    def measure(self, evaluated: Evaluated) -> dict[str, float]:
        """Return the metrics of an evaluation as the study wants them averaged."""
        totals = evaluated.measured_as(self.study.evaluation.average)
        return {
            name: round(float(value), 6) for name, value in measured(self.task, totals).items() if np.isfinite(value)
        }

    def _request(
        self, kind: Kind, *, round: int = 0, attempt: int = 0, sites: int | None = None, text: str = ""
    ) -> Request:
        return Request(
            kind=kind, run=self.run_id, study=self.study.fingerprint(), round=round, attempt=attempt,
            sites=sites or len(self.sites), text=text,
        )  # fmt: skip

    def _model(self) -> npt.NDArray[np.float32]:
        return self._sent(self.optimizer.parameters[:])

    def _sent(self, parameters: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One flat array travels down: the parameters, then the statistics where there are any."""
        return parameters if self.statistics is None else np.concatenate([parameters, self.statistics])

    def _check_quorum(self, roster: Sequence[int], number: int) -> None:
        needed = self.study.quorum(len(self.sites))
        if len(roster) < needed or len(roster) <= self.plan.colluders:
            raise RunError(
                f"round {number}: {len(roster)} of {len(self.sites)} sites are left; the study needs {needed}.\n"
                + listed(self._away(roster)),
                "What was charged stays charged. Mend the sites, then resume the run.",
            )

    def _checkpoint(self) -> None:
        state = self.optimizer.state()
        if self.statistics is not None:
            state["statistics"] = self.statistics
        if self.evaluated is not None:
            state |= self.evaluated.state("evaluation")
        if self.personal is not None:
            state |= self.personal.state("personal")
        progress = {
            "round": self.round,
            "charged": self.charged,
            "resumes": self.resumes,
            "run": self.run_id,
            "sites": self.names,
            "left": self.left,
        }
        write_checkpoint(self.folder / "checkpoints", state, progress)


def spending(plan: PrivacyPlan, local_steps: int) -> Callable[[int], float | None]:
    """Return epsilon after so many rounds, quickly enough to tell after each.

    Computed at a dozen places and interpolated between them: for progress displays and plots. What is reported at the
    end is computed exactly.
    """
    if not plan.private:
        return lambda rounds: None
    most = plan.steps // local_steps
    marks = np.unique(np.geomspace(1, most, 12).round().astype(int))
    told = plan.curve([int(mark) * local_steps for mark in marks])
    return lambda rounds: round(float(np.interp(np.log(rounds), np.log(marks), told)), 4)
