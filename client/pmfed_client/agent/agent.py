"""The site agent: the only code that touches patients, and the one that decides.

Every message is checked against the study the site enrolled in, the ledger and the policy before anything is
computed, and what comes out is checked against the allow-list before it leaves. Errors become a code and a safe
sentence; their details stay in this process.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from pmfed import __version__, plugins
from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import (
    ApprovalError,
    BudgetError,
    ClosedError,
    DataError,
    KeysError,
    LedgerError,
    PmfedError,
    PolicyError,
    ProtocolError,
    StudyError,
)
from pmfed.methods import plan_for, schedule
from pmfed.privacy.noise import SecretSource, SeededSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.query import Query, check_state
from pmfed.secagg.grid import Words
from pmfed.secagg.keys import Identity
from pmfed.study import Study
from pmfed.study.study import own_kinds
from pmfed.wire import Arrays, Reply, Request, Shapes, check_reply, dump, parse_request
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.device import found
from pmfed_client.agent.masking import Masking
from pmfed_client.agent.order import Order, check_arrays
from pmfed_client.agent.personal import Shelf
from pmfed_client.ledger.entries import entries
from pmfed_client.ledger.ledger import Ledger
from pmfed_client.site.approval import read_approval
from pmfed_client.site.approve import check_approved
from pmfed_client.site.audit_log import AuditLog
from pmfed_client.site.data_digest import data_digest, keep_digest, kept_digest
from pmfed_client.site.pause import check_open
from pmfed_client.site.site import Site

log = logging.getLogger("pmfed.site")

Sums = dict[str, Words]


@dataclass(frozen=True)
class Rehearsal:
    """What only a simulation may change. A resident agent has a seed at most, in a trial federation, and says so to all.

    ``plan`` replaces the study's privacy (for comparisons without noise); the ledger is then left alone. ``seed`` makes
    sampling and noise repeatable, and so worthless as protection; every report says so.
    """

    plan: Callable[[Study, int], PrivacyPlan] | None = None
    seed: int | None = None


@dataclass
class Session:
    """A run this site takes part in."""

    study: Study
    plan: PrivacyPlan
    queries: tuple[Query, ...]
    answers: Answers
    masking: Masking | None
    """None in a rehearsal without books: what nobody promises anything about is not hidden either."""
    order: Order


def _not_valid(text: str) -> str:
    """Return why a study that was sent cannot be read here, as far as that helps: which kinds are missing, and the packages they are in."""
    told = _plain_values(text)
    if why := plugins.misfit(told, own_kinds()):
        return f"{why}."
    for one in plugins.named(told, own_kinds()):
        if plugins.find(one.group, one.kind) is None:
            return f"this site knows no {plugins.GROUPS[one.group]} '{one.kind}': it runs pmfed {__version__}."
    return "the study that was sent is not valid here."


def _plain_values(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def told(error: PmfedError) -> str:
    """Return what the coordinator may hear of an error.

    Privacy figures may travel. What is wrong with a site's files, how few its patients are and where its ledger lies
    is the site's own business.
    """
    if isinstance(error, BudgetError | ApprovalError | ClosedError):
        return error.what  # its remedy may name other runs of this site, or its files
    if isinstance(error, ProtocolError | StudyError):
        return str(error)
    what = {
        DataError: "its data does not fit the study",
        PolicyError: "its policy does not admit the study",
        LedgerError: "its privacy ledger cannot be used",
    }.get(type(error), "it could not do this")
    return f"{what}; the site's own log says more. Nothing was released."


class Agent:
    """One hospital's agent.

    Parameters
    ----------
    site
        The hospital's site.toml.
    cohort
        Patients already read (a simulation that cuts folds); by default they are read when a study enrols.
    fold
        Names the cut of such a cohort, so that the ledger keeps the patients of different cuts apart.
    rehearsal
        See `Rehearsal`.
    resident
        Whether this is a real hospital's agent: it takes part only in studies the hospital approved, and writes
        every message into the audit log before the answer leaves.

    Guarantee
    ---------
    Without a rehearsal, nothing computed from patients leaves `handle` unless the site's policy admitted the
    study, the whole run was reserved in the ledger, and this very (run, round, attempt) was durably charged first.
    An agent that was started again knows no run: it is asked to enrol anew, by the same way in, and finds in the
    ledger what the run was charged before.
    """

    def __init__(
        self, site: Site, *, cohort: Cohort | None = None, fold: str = "", rehearsal: Rehearsal | None = None,
        resident: bool = False,
    ) -> None:  # fmt: skip
        self.site = site
        self.rehearsal = rehearsal or Rehearsal()
        self.ledger = Ledger(site.ledger)
        self._cohort, self._fold = cohort, fold
        self._sessions: dict[str, Session] = {}
        self._audit = AuditLog(site.audit_log) if resident else None

    @property
    def charges(self) -> bool:
        """Whether this agent keeps books: always, except for a simulation's comparison without noise."""
        return self.rehearsal.plan is None

    @property
    def patients(self) -> int:
        """How many patients it was given; 0 when it reads them itself. Never leaves the site."""
        return self._cohort.patients if self._cohort else 0

    def handle(self, record: bytes, arrays: Arrays) -> tuple[bytes, Arrays]:
        """Answer one message.

        Parameters
        ----------
        record
            A `Request` as bytes.
        arrays
            The state that comes with a query: what its ``state`` names.

        Returns
        -------
        tuple
            A `Reply` as bytes, and the arrays that may leave. Never raises.
        """
        request: Request | None = None
        try:
            request = parse_request(record)
            text, sums = self._answer(request, arrays)
            reply = self._reply(request, text=text)
            check_reply(reply, sums, self._shapes(request))
        except PmfedError as error:
            log.warning("%s: %s: %s", self.site.name, request.what if request else "message", error)
            reply, sums = self._reply(request, ok=False, code=error.code, reason=told(error)), {}
        except Exception as error:
            log.exception("%s: %s failed", self.site.name, request.what if request else "message")
            reason = (
                f"internal error ({type(error).__name__}); the site's own log has the details. Nothing was released."
            )
            reply, sums = self._reply(request, ok=False, code=PmfedError.code, reason=reason), {}
        return self._noted(request, len(record) + sum(a.nbytes for a in arrays.values()), reply, sums)

    def _noted(self, request: Request | None, came: int, reply: Reply, sums: Sums) -> tuple[bytes, Sums]:
        """Write an answer into the audit log, durably, before it leaves; what cannot be noted does not leave."""
        answer = dump(reply)
        if self._audit is None:
            return answer, sums
        about: dict[str, str | int] = {"code": reply.code, "bytes_in": came}
        if request is not None:
            about |= {"run": request.run, "study": request.study, "round": request.round, "attempt": request.attempt}
        try:
            leaves = len(answer) + sum(words.nbytes for words in sums.values())
            self._audit.add(request.what if request else "unreadable", **about, bytes_out=leaves)
        except LedgerError as error:
            log.warning("%s: %s", self.site.name, error)
            return dump(self._reply(request, ok=False, code=error.code, reason=told(error))), {}
        return answer, sums

    # -- one method per kind of message ---------------------------------------------------------------------------

    def _answer(self, request: Request, arrays: Arrays) -> tuple[str, Sums]:
        check_open(self.site, request.kind, datetime.now(UTC))
        check_arrays(request, arrays)
        if request.kind == "enroll":
            return self._enroll(request), {}
        if request.kind == "finish":
            return self._finish(request), {}
        session = self._session(request)
        if request.kind == "ask":
            return "", self._ask(session, request, arrays)
        if session.masking is None:
            raise ProtocolError("a rehearsal has no keys.")
        return session.masking.answer(request), {}

    def _ask(self, session: Session, request: Request, state: Arrays) -> Sums:
        """Answer a query: everything that may refuse, the charge, the sum, the mask."""
        query = session.order.query(request)
        if self._audit is not None:
            read_approval(self.site, request.study, datetime.now(UTC))  # it may have ended since
            self._end_idle(self._audit)
        if session.masking:
            session.masking.ready(request)
        check_state(query, state)
        session.order.take(request)
        sums = self._sums(session, query, request, state)
        if session.masking:
            session.masking.hide(sums["sum"], request, state)
        return sums

    def _sums(self, session: Session, query: Query, request: Request, state: Arrays) -> Sums:
        """Charge a release, then compute it."""
        if query.stage == "last":
            self._learn_own(session, request, state)  # what is scored must be there first
        self._charge(session, query.name, request, query.charged_at_once)
        sums = session.answers.answer(query, state, request.sites, request.round, request.attempt)
        if query.stage != "last":
            self._learn_own(session, request, state)
        return sums

    def _learn_own(self, session: Session, request: Request, state: Arrays) -> None:
        """Charge and take the steps for the site's own model, where a query has any ride along."""
        trainer = session.answers.trainer
        if trainer is None or trainer.own is None:
            return
        if steps := trainer.own.due(request.query, request.round):
            self._charge(session, "personal", request, steps)
            trainer.learn_own(state["parameters"], request.round, request.attempt)

    def _enroll(self, request: Request) -> str:
        study = self._study(request)
        if study.fingerprint() != request.study:
            raise ProtocolError("the study that was sent has another fingerprint. Nothing was released.")
        if self._audit is not None:
            check_approved(self.site, study.fingerprint())
            self._end_idle(self._audit)
        known = self._sessions.get(request.run)
        if known is not None and known.study == study and known.plan.sites == request.sites:
            # Asked again, because some site lost its keys: fresh ones for all, the same books.
            if self.charges:
                self.ledger.check_open(request.run)
            session = replace(known, masking=self._masking(request.run, study, request.sites))
        else:
            session = self._join(request.run, study, request.sites)
        self._sessions[request.run] = session
        if not self.charges:
            return ""
        assert session.masking is not None
        head = {"site": self.site.name, "run": request.run, "head": self.ledger.head()}
        told = {
            "pmfed": __version__,
            "card": session.masking.masker.card.model_dump(mode="json"),
            "head": Identity.at(self.site.identity).signed(head),
        }
        return json.dumps(told | {"insecure": True} if self.rehearsal.seed is not None else told)

    def _study(self, request: Request) -> Study:
        """Read the study that was sent. What it says makes no code run: plug-ins are loaded for a study that this hospital approved."""
        if self._audit is not None and plugins.named(_plain_values(request.text), own_kinds()):
            check_approved(self.site, request.study)
            if hashlib.sha256(request.text.encode()).hexdigest() != request.study:
                raise ProtocolError("the study that was sent has another fingerprint. Nothing was released.")
        try:
            with plugins.admitting(self.site.policy.plugins):
                return Study.parse(request.text)
        except ValidationError:
            raise ProtocolError(f"{_not_valid(request.text)} Nothing was released.") from None

    def _join(self, run: str, study: Study, sites: int) -> Session:
        """Admit a study and reserve the run; a run that is reserved already is admitted and reserved the same way."""
        found(self.site.device, self.site.precision)  # before anything is reserved
        masking = self._masking(run, study, sites)
        cohort = self._cohort or read_cohort(study, self.site.sources, self.site.name, self.site.places)
        make = self.rehearsal.plan or plan_for
        plan = make(study, sites)
        if self.charges:
            held_out = cohort.patients - int(cohort.training.sum())
            self.site.policy.admit(study, plan, int(cohort.training.sum()), held_out)
            allowance = None
            if self._audit is not None:
                allowance = read_approval(self.site, study.fingerprint(), datetime.now(UTC)).allowance
            self.ledger.reserve(
                run, study.fingerprint(), entries(study, plan, self._fold), self.site.policy.budget,
                per_study=self.site.policy.study_epsilon, allowance=allowance,
            )  # fmt: skip
            keep_digest(self.site, run, data_digest(cohort, Identity.at(self.site.identity).derived(f"data {run}")))
        queries = schedule(study)
        order = Order(queries)
        if self._audit is not None and self._audit.path.exists():
            order.recall(self._audit.lines(), run)
        shelf = Shelf(self.site.personal, run) if study.personal else None
        answers = Answers(study, plan, cohort, self._source(run), shelf, self.site.device, self.site.precision)
        return Session(study, plan, queries, answers, masking, order)

    def _end_idle(self, audit: AuditLog) -> None:
        """End the runs that have asked for nothing for longer than the policy waits: what they reserved is free again."""
        for run in self.ledger.end_idle(datetime.now(UTC) - timedelta(days=self.site.policy.idle_days)):
            audit.add("end", run=run)

    def _masking(self, run: str, study: Study, sites: int) -> Masking | None:
        return Masking(self.site, study, run, sites) if self.charges else None

    def _finish(self, request: Request) -> str:
        """Give back what was never computed and sign what was; asked again, it answers the same again."""
        if not self.charges:
            self._sessions.pop(request.run, None)
            return ""
        receipt = self.ledger.receipt(request.run)
        if receipt["study"] != request.study:
            raise ProtocolError("the message names another study than the run's. Nothing was released.")
        self._sessions.pop(request.run, None)
        self.ledger.finish(request.run)
        Shelf(self.site.personal, request.run).clear()
        receipt = {"site": self.site.name, **self.ledger.receipt(request.run)}
        if digest := kept_digest(self.site, request.run):
            receipt["data"] = digest
        return Identity.at(self.site.identity).signed(receipt)

    # -- helpers --------------------------------------------------------------------------------------------------

    def _charge(self, session: Session, query: str, request: Request, count: int) -> None:
        """Write the charge down, durably, before anything is computed; what carries no noise has no price."""
        if self.charges and query not in session.plan:
            self.ledger.check_open(request.run)  # what has no price still ends with the run
        elif self.charges:
            noise = session.plan[query].noise_multiplier
            self.ledger.charge(request.run, query, request.round, request.attempt, noise, count)

    def _session(self, request: Request) -> Session:
        session = self._sessions.get(request.run)
        if session is None:
            raise KeysError("this site is not enrolled in that run, or was started anew. Nothing was released.")
        if request.study != session.study.fingerprint():
            raise ProtocolError("the message names another study than the run's. Nothing was released.")
        return session

    def _shapes(self, request: Request) -> Shapes:
        session = self._sessions.get(request.run)
        query = next((one for one in session.queries if one.name == request.query), None) if session else None
        return session.answers.shapes(query, request.sites) if session and query else {}

    def _source(self, run: str) -> Callable[[str, int, int], Any]:
        """Return where randomness comes from: the operating system, or a seed a simulation chose."""
        seed = self.rehearsal.seed
        if seed is None:
            secret = SecretSource()
            return lambda what, round, attempt: secret
        return lambda what, round, attempt: SeededSource(seed, self.site.name, what, round, attempt)

    def _reply(
        self, request: Request | None, *, ok: bool = True, code: str = "", reason: str = "", text: str = ""
    ) -> Reply:
        if request is None:
            return Reply(kind="enroll", run="0" * 32, site=self.site.name, ok=False, code=code, reason=reason)
        return Reply(
            kind=request.kind, query=request.query, run=request.run, round=request.round, attempt=request.attempt, site=self.site.name,
            ok=ok, code=code, reason=reason, text=text,
        )  # fmt: skip
