"""The coordinator's side of a run: enrol, one loop over the schedule, receipts.

Read `Rounds.run` aloud: it is the way of the data. What is asked next, and what becomes of the answer, is the method's
business. When a site fails, an attempt is thrown away and repeated by those that remain, with fresh patients, fresh
noise in larger shares, and a fresh charge. The sites agreed to so many charges and no more, so a run with retries takes
fewer rounds, never more.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.serverapp import Grid

from pmfed.errors import BudgetError, RunError
from pmfed.file_io import replace_file
from pmfed.methods import Ask, DecodedSum, Method, method_for, schedule
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.grid import Grid as Rounding
from pmfed.study import Study
from pmfed.wire import Kind, Request
from pmfed_server.checkpoint import read_checkpoint, write_checkpoint
from pmfed_server.enrolment import Enrolment, Registered, listed, name
from pmfed_server.fleet import Fleet
from pmfed_server.outcome import RunOutcome
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

    Attributes
    ----------
    method
        What follows from the answers so far.
    charged
        Query -> for how many answers the sites were charged, as far as the coordinator can tell.
    """

    def __init__(
        self, grid: Grid, study: Study, plan: PrivacyPlan, folder: Path, *, run: str, sites: int, patience: float,
        registered: Registered | None = None,
    ) -> None:  # fmt: skip
        self.study, self.plan, self.folder = study, plan, folder
        self.run_id, self.expected = run, sites
        self.fleet = Fleet(grid, patience)
        self.method: Method = method_for(study, folder)
        self.enrolment = Enrolment(self.fleet, study, self._request, registered)
        self.sites = self.enrolment.sites
        self.sums = Sums(self.fleet, study, self.enrolment, folder)
        self.names: tuple[str, ...] = ()
        self.left: dict[str, str] = {}
        self.charged: Counter[str] = Counter()
        self.resumes = 0
        self.train_seconds = 0.0
        self._queries = {query.name: query for query in schedule(study)}
        self.spent = spending(plan, study.training.local_steps)
        self._line: dict[str, Any] | None = None  # of the round that was taken last, until it is written

    def run(self) -> RunOutcome:
        """Take the run from wherever it stands to its end.

        Raises
        ------
        RunError
            Too few sites enrolled, or too few were left in a round.
        """
        self._resume()
        if self._next() is not None:
            try:
                self._enroll()
                while (ask := self._next()) is not None:
                    self._follow(ask)
            except RunError:
                if not self.charged.total():
                    self._free()
                raise
            finally:
                self._write_line()
            self._checkpoint()  # sites forget a run once it is finished; nothing may be needed from them after that
        receipts = self._finish()
        many = max(1, len(self.names))
        refused = {site: why for site, why in self.enrolment.refused.items() if site not in self.names}
        return RunOutcome(
            self.names, self.plan, self.enrolment.masked, refused, self.method, receipts, dict(self.charged),
            self.train_seconds, self.fleet.bytes_up / many, self.fleet.bytes_down / many, self.enrolment.insecure,
            self.enrolment.versions, self.left,
        )  # fmt: skip

    # -- the legs -------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        found = read_checkpoint(self.folder / "checkpoints")
        if found is None:
            return
        state, progress = found
        if not isinstance(progress["charged"], dict):
            raise RunError(
                f"{self.folder}: this run was begun by a pmfed that spoke another protocol.",
                "Finish it with that version, or start the study in a new folder: what was charged stays charged.",
            )
        self.method.restore(state)
        self.names = tuple(progress["sites"])
        self.left = dict(progress.get("left", {}))
        self.resumes = int(progress["resumes"]) + 1
        self.charged = Counter({str(query): int(times) for query, times in progress["charged"].items()})
        ask = self._next()
        if ask is not None and ask.query.stage == "round":
            # The round under way when the coordinator died may have been charged: count it as if it had.
            self.charged[ask.query.name] = min(self.charged[ask.query.name] + 1, ask.query.times)
        log.info("resuming after round %d", self.method.round)

    def _enroll(self) -> None:
        nodes = self.fleet.gather(self.expected)
        self.plan = self.plan.with_sites(len(nodes))
        self.enrolment.enrol(nodes)
        there, refused = sorted(self.sites.values()), self.enrolment.refused
        # Who took part before a resume was charged, and has left if it does not agree again.
        self.left = {site: refused.get(site, AWAY) for site in self.names if site not in there}
        self.names = tuple(sorted({*self.names, *there}))
        agreed = {"sites": there, "refused": {**refused, **self.left}}  # for whoever follows the run
        replace_file(self.folder / "enrolled.json", json.dumps(agreed).encode())
        self._checkpoint()  # a run killed in its first round must know, when resumed, that it had begun

    def _free(self) -> None:
        """Tell the sites that a run is over in which nothing was charged: what they reserved for it is free at once.

        It cannot be resumed then, and leaves nothing that would say so: who tries again begins a new run.
        """
        if self.sites:
            self.fleet.ask(self._request("finish", sites=len(self.sites)), list(self.sites))
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        (self.folder / "run-id").unlink(missing_ok=True)

    def _follow(self, ask: Ask) -> None:
        """Ask the sites, and give the method what came of it."""
        if ask.query.stage == "round":
            self._one_round(ask)
            following = self._next()
            if following is None or not following.progress:
                self._write_line()
        elif (answer := self._answer(ask)) is None:
            self.method.lost(ask)
        else:
            self.method.take(ask, answer)
            if not ask.progress:
                self._checkpoint()
            elif self._line is not None:
                self._line["metrics"] = self.method.progress()
                self._write_line()

    def _one_round(self, ask: Ask) -> None:
        """Take one round, or tell the method that the sites' budget ends here."""
        query, started = ask.query, time.perf_counter()
        up, down = self.fleet.bytes_up, self.fleet.bytes_down
        dropped: dict[str, str] = {}
        for tried in self._attempts(ask) if self.charged[query.name] < query.times else ():
            summed = tried.summed
            if not summed.nodes and all(answer.code == BudgetError.code for answer in summed.failed):
                break
            self.charged[query.name] += 1
            for answer in summed.failed:
                site = self.sites[answer.node]
                dropped[site] = self.left[site]
                log.warning("round %d: %s: %s", ask.number, site, dropped[site])
            if summed.total is not None:
                for node in summed.nodes:
                    self.enrolment.strikes[node] = 0
                self.method.take(ask, DecodedSum(summed.total, tried.grid, len(summed.nodes)))
                self._checkpoint()
                seconds = time.perf_counter() - started
                self.train_seconds += seconds
                self._line = {
                    "round": ask.number,
                    "epsilon": self.spent(self.charged[query.name]),
                    "sites": len(summed.nodes),
                    "attempt": tried.attempt,
                    "dropped": dropped,
                    "seconds": round(seconds, 4),
                    "bytes_up": self.fleet.bytes_up - up,
                    "bytes_down": self.fleet.bytes_down - down,
                }
                return
            if self.charged[query.name] >= query.times:
                break
        self.method.exhausted(query)

    def _answer(self, ask: Ask) -> DecodedSum | None:
        """Ask for a sum that is no round; None when there is none and the run can do without.

        What is charged once in a run cannot be asked for again: when a site is missing, the noise of the others is less
        than was promised, so the sum is thrown away. What carries no noise is asked for until it comes.

        Raises
        ------
        RunError
            The run cannot do without, or too few sites are left.
        """
        query = ask.query
        try:
            for tried in self._attempts(ask):
                summed = tried.summed
                if not query.exact:
                    self.charged[query.name] += 1
                if summed.total is not None:
                    own = {self.sites[node]: words for node, words in summed.own.items() if node in summed.nodes}
                    many = len(summed.nodes)
                    noise = self.plan[query.name].sum_std(many) if query.name in self.plan else 0.0
                    return DecodedSum(summed.total, tried.grid, many, own, noise)
                if query.repeats:
                    continue
                if query.needed:
                    raise RunError(
                        f"{query.label} could not be learned.\n"
                        + listed({name(answer): answer.problem for answer in summed.failed}),
                        "They are charged once in a run. If they were charged and lost, start the study in a new folder.",
                    )
                asked = len(summed.nodes) + len(summed.failed)
                log.warning("%s: lost, for %d of %d sites answered", query.label, len(summed.nodes), asked)
                return None
        except RunError as error:
            if query.stage != "last":
                raise
            # The result is whole by now: it then has no figures of the sites' own models.
            log.warning("%s: not measured: %s", query.label, error)
        return None

    def _finish(self) -> dict[str, str]:
        resumed = not self.sites  # for nothing but the receipts: who is away by now cannot keep the result from anybody
        nodes = self.fleet.gather(self.expected, least=0) if resumed else list(self.sites)
        answers = self.fleet.ask(self._request("finish", round=self.method.round, sites=len(nodes)), nodes)
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

    def _next(self) -> Ask | None:
        """Return what to ask next, with the query as the sites know it."""
        ask = self.method.next()
        return None if ask is None else replace(ask, query=self._queries.get(ask.query.name, ask.query))

    def _attempts(self, ask: Ask) -> Iterator[Tried]:
        """Ask for a sum, and again as long as whoever asked wants to: each time without those that failed before.

        Each attempt has another number, and so fresh patients, fresh noise and fresh masks.
        """
        query = ask.query
        roster = self.enrolment.roster()
        # What comes first is named by its attempt alone.
        first = self.resumes if query.stage == "first" else 100 * self.resumes
        for attempt in count(first):
            self._check_quorum(roster, ask.number)
            if attempt > first:
                self._checkpoint()  # the attempt before was charged, whatever becomes of this one
            grid = query.grid(len(roster))
            summed = self.sums.collect(
                self._request("ask", query=query.name, round=ask.number, attempt=attempt), roster, query.size,
                grid.word, (lambda: self.method.sent(ask)) if query.state else None,
            )  # fmt: skip
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

    def _write_line(self) -> None:
        """Append the line of the last round to metrics.jsonl, with what was measured after it."""
        if self._line is not None:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(self._line) + "\n")
            self._line = None

    def _request(
        self, kind: Kind, *, query: str = "", round: int = 0, attempt: int = 0, sites: int | None = None, text: str = ""
    ) -> Request:
        return Request(
            kind=kind, query=query, run=self.run_id, study=self.study.fingerprint(), round=round, attempt=attempt,
            sites=sites or len(self.sites), text=text,
        )  # fmt: skip

    def _check_quorum(self, roster: Sequence[int], number: int) -> None:
        needed = self.study.quorum(len(self.sites))
        if len(roster) < needed or len(roster) <= self.plan.colluders:
            raise RunError(
                f"round {number}: {len(roster)} of {len(self.sites)} sites are left; the study needs {needed}.\n"
                + listed(self._away(roster)),
                "What was charged stays charged. Mend the sites, then resume the run.",
            )

    def _checkpoint(self) -> None:
        progress = {
            "round": self.method.round,
            "charged": dict(self.charged),
            "resumes": self.resumes,
            "run": self.run_id,
            "sites": self.names,
            "left": self.left,
        }
        write_checkpoint(self.folder / "checkpoints", self.method.state(), progress)


def spending(plan: PrivacyPlan, local_steps: int) -> Callable[[int], float | None]:
    """Return epsilon after so many rounds, quickly enough to tell after each.

    Computed at a dozen places and interpolated between them: for progress displays and plots. What is reported at the
    end is computed exactly.
    """
    if not plan.private or "step" not in plan:
        return lambda rounds: None
    most = plan["step"].times // local_steps
    marks = np.unique(np.geomspace(1, most, 12).round().astype(int))
    told = plan.curve("step", [int(mark) * local_steps for mark in marks])
    return lambda rounds: round(float(np.interp(np.log(rounds), np.log(marks), told)), 4)
