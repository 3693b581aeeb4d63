"""The ledger: what this site's patients were charged, remembered over rounds, runs, studies and crashes.

An append-only SQLite file in write-ahead mode, synced to the disk at every commit. A run reserves its whole
plan before the first step, charges every release before a byte of it leaves the process, and at its end gives
back the steps it never computed. What was charged is never given back. Order is the sequence of the rows; no
decision looks at a clock.

What is noticed
---------------
Verified in full when a process first uses the file, and by ``verify``: any row that was edited, removed or put
in, and rows missing at the end while the file's own count still tells of them. Every later call verifies the
rows added since.

The anchor ``ledger.head`` beside the file is renewed at the first use by a process, at every reserve and at
every finish, but not at a charge, which would need a second and a third sync. It is written after the rows
are durable and under the write lock: after a crash it may be behind the rows, never ahead. So a ledger.db that
was deleted, or put back from a copy older than the newest first use, reserve or finish, is noticed. A copy
newer than that lacks only charges within a run in progress: those within its reservation count all the same
until it is finished. Such a copy, or both files put back together, shows when compared with a receipt that is
kept elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pmfed.errors import BudgetError, LedgerError
from pmfed.privacy.accounting import Release, epsilon
from pmfed.privacy.mechanism import SAMPLED_GAUSSIAN
from pmfed_client.ledger.admission import Allowance, admit, admit_approved, admit_study
from pmfed_client.ledger.chain import Kind, LedgerRow
from pmfed_client.ledger.entries import ACCOUNT, Book, Entry, Run, as_releases, by_what, cohorts
from pmfed_client.ledger.store import Store

__all__ = ["Entry", "Ledger", "cohorts"]


class Ledger:
    """One site's privacy ledger.

    Opened at first use; usable from several threads and processes, and on both sides of a fork.

    Parameters
    ----------
    path
        The file; made when absent, its folder must exist. ``ledger.head`` lies beside it.
    timeout
        Seconds to wait for another process that holds the file.

    Guarantee
    ---------
    For every cohort, the joint epsilon of all releases charged by any run, plus all that unfinished runs may still
    charge, stays within the budget of every run admitted: by PLD for the first run, by the Renyi filter (Feldman,
    Zrnic 2021) once there are several, which may have been chosen after looking at earlier results. When anything about the file is in doubt,
    every method raises LedgerError, and the caller must release nothing.
    """

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        self.path = Path(path)
        self._store = Store(self.path, timeout)
        self._book = Book()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r})"

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._store.close()

    def reserve(
        self, run: str, study: str, releases: Mapping[str, tuple[Entry, ...]], budget: tuple[float, float],
        *, per_study: float | None = None, allowance: Allowance | None = None,
    ) -> None:  # fmt: skip
        """Set aside what a whole run will charge, or refuse it.

        Parameters
        ----------
        run, study
            Run id and fingerprint of the study.
        releases
            Cohort -> planned releases.
        budget
            (epsilon, delta): the site's total for every one of these cohorts, over all runs.
        per_study
            Most that the runs of this one study may cost together, at the same delta.
        allowance
            What the approval allows that the run stands under; None where nobody needs one.

        Raises
        ------
        BudgetError
            The joint epsilon of all that is charged and reserved, plus this run, is above the budget, or that of this
            study's runs is above what one study may cost, or that of its approval's runs above what they may.
        ApprovalError
            The approval's runs have been, or another run of the study is not over.
        LedgerError
            The run id is taken by another plan or a finished run, or the ledger cannot be trusted or written.

        Guarantee
        ---------
        When this returns the reservation is durable, and no admission by any process, then or later, can
        overlook it. The same run with the same plan may call again after a crash: it is reserved once. With a
        changed budget it is admitted anew. When this raises, the ledger may hold the reservation or not, and
        calling again is safe.
        """
        wanted = by_what(releases)
        allowed = (float(budget[0]), float(budget[1]))
        with self._transaction(write=True):
            known = self._book.runs.get(run)
            if known is not None:
                self._must_go_on(run, known)
                if known.study != study or known.plan() != wanted:
                    raise LedgerError(
                        f"run '{run}' has reserved another plan at this site. Nothing was released.",
                        "A run keeps its plan when it goes on; start a new run for a changed study.",
                    )
            if per_study is not None:
                admit_study(self._book, run, study, wanted, per_study, allowed[1])
            if known is None and allowance is not None:
                admit_approved(self._book, run, study, wanted, allowance, allowed[1])
            if known is None or known.budget != allowed:
                for cohort in sorted({cohort for cohort, _ in wanted.values()}):
                    admit(self._book, run, cohort, wanted, allowed)
                approval = known.approval if known else allowance.approval if allowance else None
                for cohort, entry in wanted.values():
                    self._append(
                        "reserve", run, study, cohort, entry, epsilon=allowed[0], delta=allowed[1], approval=approval
                    )
        self._renew_anchor()

    def charge(self, run: str, what: str, round: int, attempt: int, noise_multiplier: float, count: int = 1) -> None:
        """Charge releases that are about to leave the site.

        Parameters
        ----------
        run, what
            A reserved run and the ``what`` of one of its entries, which also says the cohort.
        round, attempt
            Must come after the last (round, attempt) charged for this ``what``.
        noise_multiplier
            Of the noise really added; never below the reserved one.
        count
            Releases charged at once: 1, or the local steps of one ``fedavg`` round.

        Raises
        ------
        BudgetError
            The reservation is used up (retries use it up too), or the noise is less than was reserved: the study's
            epsilon is a promise that nothing may exceed, not even where the site's own budget would allow it.
        LedgerError
            No reservation, run finished, this attempt already charged, round gone back, or no trust in the file.

        Guarantee
        ---------
        Write-ahead: when this returns the charge is on the disk, whatever happens to the process or the power
        afterwards; only then may a byte of the release leave. No (run, what, round, attempt) is charged twice,
        by any process. When this raises, nothing may be released; the charge may stand all the same, and is
        never given back.
        """
        round, attempt = int(round), int(attempt)
        with self._transaction(write=True):
            known = self._reserved(run)
            self._must_go_on(run, known)
            line = known.lines.get(what)
            if line is None:
                raise LedgerError(f"run '{run}' has no reservation for '{what}'. Nothing was released.")
            if line.last is not None and (round, attempt) <= line.last:
                problem = "was charged before" if (round, attempt) == line.last else "would be a step back"
                raise LedgerError(
                    f"run '{run}', {what}: round {line.last[0]} attempt {line.last[1]} was charged last; round "
                    f"{round} attempt {attempt} {problem}. Nothing was released.",
                    "Every attempt is charged once and released once; ask for the next attempt.",
                )
            noise = float(noise_multiplier)
            if math.isclose(noise, line.entry.noise_multiplier, rel_tol=1e-9):
                noise = line.entry.noise_multiplier
            entry = replace(line.entry, noise_multiplier=noise, count=int(count))
            left = line.entry.count - line.covered
            if noise < line.entry.noise_multiplier or entry.count > left:
                raise BudgetError(
                    f"run '{run}', {what}: {entry.count} release(s) with noise multiplier {noise:g} were asked for; {left} "
                    f"of the {line.entry.count} reserved with {line.entry.noise_multiplier:g} are left. "
                    "Nothing was released.",
                    "The run ends here. A longer study is a new study, with its own epsilon.",
                )
            self._append("charge", run, known.study, line.cohort, entry, round=round, attempt=attempt)

    def check_open(self, run: str) -> None:
        """Return when a run may go on at this site; LedgerError when it was never reserved, is finished or was ended."""
        with self._transaction():
            self._must_go_on(run, self._reserved(run))

    def find(self, begins: str) -> str:
        """Return the one run whose id begins so; LedgerError when there is none, or more than one."""
        with self._transaction():
            found = [run for run in self._book.runs if run.startswith(begins)]
        if len(found) != 1:
            how = "no run" if not found else f"{len(found)} runs"
            raise LedgerError(f"{how} of this ledger begin with '{begins}'.", "See: pmfed site ledger show")
        return found[0]

    def finish(self, run: str) -> None:
        """End a run and give back the releases it never computed; a second call changes nothing.

        Raises
        ------
        LedgerError
            The run has no reservation, or the ledger cannot be trusted or written.

        Guarantee
        ---------
        Gives back only what was reserved and never charged. The run can charge nothing more.
        """
        self._close("finish", run)

    def end(self, run: str) -> None:
        """End a run because the hospital wants it so, whatever its coordinator does; a second call changes nothing.

        Raises
        ------
        LedgerError
            The run has no reservation, or the ledger cannot be trusted or written.

        Guarantee
        ---------
        As for `finish`: what was charged stays charged, the rest of the reservation is given back, and the run can
        charge nothing more.
        """
        self._close("end", run)

    def end_idle(self, since: datetime) -> tuple[str, ...]:
        """End every run that reserved and charged nothing since a moment (with its time zone); return their ids.

        Guarantee
        ---------
        As for `end`. A clock that is wrong ends a run too early or too late; it never gives back what was charged.
        """
        with self._transaction():
            idle = [run for run in self._book.unfinished() if datetime.fromisoformat(self._book.runs[run].time) < since]
        ended = []
        for run in idle:
            with self._transaction(write=True):
                known = self._book.runs[run]
                if not known.finished and datetime.fromisoformat(known.time) < since:  # it may have gone on meanwhile
                    self._end(known, "end", run)
                    ended.append(run)
        if ended:
            self._renew_anchor()
        return tuple(ended)

    def _close(self, kind: Kind, run: str) -> None:
        with self._transaction(write=True):
            known = self._reserved(run)
            if not known.finished:
                self._end(known, kind, run)
        self._renew_anchor()

    def _end(self, known: Run, kind: Kind, run: str) -> None:
        for line in known.lines.values():
            if unused := line.entry.count - line.covered:
                self._append("refund", run, known.study, line.cohort, replace(line.entry, count=unused))
        self._append(kind, run, known.study)

    def head(self) -> str:
        """Return the hash of the newest row: it says nothing of how many there are or what they hold.

        Guarantee
        ---------
        A site that shows it, signed, cannot later go on from an older copy unnoticed by whoever kept it. The chain begins
        with a random number, so a head cannot be guessed from the rows.
        """
        with self._transaction():
            return self._store.head

    def releases(self, cohort: str, run: str | None = None, reserved: bool = False) -> tuple[Release, ...]:
        """Return what was charged to the patients of a cohort, by all runs or by one.

        With ``reserved``, unfinished runs count with all they may still charge.

        Guarantee
        ---------
        Holds every release that left the site, and every one of cohorts that may share patients with this one.
        """
        with self._transaction():
            return as_releases(self._book.costs(cohort, run, reserved))

    def spent(self, cohort: str, delta: float, reserved: bool = False) -> float:
        """Return the joint epsilon, at ``delta``, of ``releases(cohort, reserved=reserved)``; 0.0 for none.

        Guarantee
        ---------
        An upper bound for every patient of the cohort on what all releases together reveal.
        """
        return epsilon(self.releases(cohort, reserved=reserved), delta)

    def receipt(self, run: str) -> dict[str, Any]:
        """Return what a run was charged here, for the site to sign.

        Returns
        -------
        dict
            "run", "study", "finished"; "charges" {what: releases}; "cohorts" {cohort: epsilon of this run};
            "epsilon", the largest of them, at "delta", that of the budget; "first" and "last", the hashes of the
            run's first and last row in the chain, and "rows", how many it has; "head", see `head`.

        Guarantee
        ---------
        Kept away from the site, it shows later whether the chain still holds these rows.
        """
        with self._transaction():
            known = self._reserved(run)
            delta = known.budget[1]
            names = sorted({line.cohort for line in known.lines.values()})
            costs = {name: as_releases(self._book.costs(name, run, reserved=False)) for name in names}
            spent = {name: epsilon(releases, delta) for name, releases in costs.items()}
            return {
                "run": run, "study": known.study, "finished": known.finished,
                "charges": {what: line.charged.total() for what, line in sorted(known.lines.items())},
                "cohorts": spent, "epsilon": max(spent.values()), "delta": delta,
                "first": known.first, "last": known.latest, "rows": known.rows, "head": self._store.head,
            }  # fmt: skip

    def rows(self) -> Iterator[LedgerRow]:
        """Yield every row, oldest first.

        Guarantee
        ---------
        Each was verified just now; LedgerError, naming the row, at the first that does not fit.
        """
        with self._transaction():
            rows = list(self._store.walk())
        yield from rows

    def verify(self) -> int:
        """Walk the whole chain and return the number of rows.

        Raises
        ------
        LedgerError
            Names the first row that is missing, was changed, or is not the one the anchor tells of.

        Guarantee
        ---------
        When this returns, the file holds what was written to it, within the limits said at the top of this page.
        """
        with self._transaction(write=True):
            return self._store.verify()

    @contextmanager
    def _transaction(self, write: bool = False) -> Iterator[None]:
        with self._store.transaction(write):
            for row in self._store.news():
                self._book.fold(row)
            yield

    def _renew_anchor(self) -> None:
        with self._transaction(write=True):
            self._store.renew_anchor()

    def _append(
        self, kind: Kind, run: str, study: str, cohort: str | None = None, entry: Entry | None = None, **more: Any
    ) -> None:
        if entry is not None:
            more |= {
                "what": entry.what,
                "count": entry.count,
                "mechanism": SAMPLED_GAUSSIAN,
                "parameters": entry.parameters,
            }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        role = None if cohort is None else cohort.partition(":")[0]
        self._store.append(LedgerRow(0, now, kind, run, study, cohort, account=ACCOUNT, role=role, **more))

    def _reserved(self, run: str) -> Run:
        known = self._book.runs.get(run)
        if known is None:
            raise LedgerError(
                f"run '{run}' has no reservation at this site. Nothing was released.",
                "A run enrols, and reserves its budget, before it takes a step.",
            )
        return known

    def _must_go_on(self, run: str, known: Run) -> None:
        if known.finished:
            how = "was ended by this hospital" if known.ended else "is finished at this site"
            raise LedgerError(f"run '{run}' {how}. Nothing was released.", "Start a new run.")
