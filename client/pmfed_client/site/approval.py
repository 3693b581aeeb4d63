"""What a person's approval of a study allows: so many runs, so much epsilon in all, until a day."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, NonNegativeFloat, PositiveInt, ValidationError

from pmfed.errors import ApprovalError, UsageError
from pmfed.methods import plan_for
from pmfed.privacy.rounding import rounded_up
from pmfed.study import Study
from pmfed.validate import Frozen
from pmfed_client.ledger.admission import Allowance, cost_of
from pmfed_client.ledger.entries import by_what, entries
from pmfed_client.site.site import Site

DAYS = 90
"""How long an approval holds unless its person says otherwise."""


class Approval(Frozen):
    """What was allowed, beside the copy of the study in ``approved/``.

    Parameters
    ----------
    id
        16 hex digits; the ledger notes it with every run that stands under this approval.
    runs
        How many runs; one counts when its first release is charged, and a run that is resumed is the same run.
    epsilon
        Most that these runs together may cost a patient, at the delta of the site's policy.
    until
        From this moment on no run of the study begins or goes on.
    """

    id: str
    runs: PositiveInt = 1
    epsilon: NonNegativeFloat
    until: AwareDatetime

    @property
    def allowance(self) -> Allowance:
        """What the ledger holds the approval's runs to."""
        return Allowance(self.id, self.runs, self.epsilon)

    def words(self, delta: float) -> list[str]:
        """Return what is allowed, for the person who approves."""
        many = "one run" if self.runs == 1 else f"{self.runs} runs"
        return [
            f"What you allow    {many} until {self.until:%Y-%m-%d}, which together may cost at most epsilon {self.epsilon:g}",
            f"                  at delta {delta:g}; change with --runs, --epsilon, --days",
        ]


def granted(site: Site, study: Study, runs: int = 1, epsilon: float | None = None, days: float = DAYS) -> Approval:
    """Return the approval that a person is about to give.

    Without ``epsilon`` it is what so many runs come to, as the ledger will count them.

    Raises
    ------
    UsageError
        Not one run fits into it, or it would be over at once.
    """
    if not days > 0:
        raise UsageError("an approval holds for some time.", "Give --days above 0.")
    _, delta = site.policy.budget
    one = needed = 0.0
    if 0 < delta < 1:
        wanted = by_what(entries(study, plan_for(study, study.fewest_sites)))
        one, needed = (rounded_up(cost_of(wanted, delta, times)) for times in (1, runs))
    if epsilon is not None and not epsilon >= one:
        raise UsageError(
            f"one run of this study costs epsilon {one:g} at the delta of this site, {delta:g}; --epsilon {epsilon:g} allows none.",
            f"Give --epsilon {one:g} or more, or leave it out.",
        )
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    return Approval(id=secrets.token_hex(8), runs=runs, epsilon=needed if epsilon is None else epsilon, until=until)


def path_of(site: Site, fingerprint: str) -> Path:
    """Return where the approval of a study lies."""
    return site.approved / f"{fingerprint}.json"


def read_approval(site: Site, fingerprint: str, now: datetime) -> Approval:
    """Return what the approval of a study allows at this moment.

    Raises
    ------
    ApprovalError
        There is none that this pmfed can read, others may write it, or it is over.
    """
    path = path_of(site, fingerprint)
    remedy = f"Approve the study again: pmfed site approve STUDY.toml {site.folder}"
    try:
        written_by_others = path.stat().st_mode & 0o022
        approval = Approval.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        raise ApprovalError(
            f"this hospital has not approved the study {fingerprint[:12]}, or did so before approvals had an end. "
            "Nothing was released.",
            remedy,
        ) from None
    if written_by_others:
        raise ApprovalError(
            f"this hospital has not approved the study {fingerprint[:12]}. Nothing was released.",
            f"{path}: others may write it. {remedy}",
        )
    if now >= approval.until:
        raise ApprovalError(
            f"this hospital's approval of the study {fingerprint[:12]} ended on {approval.until:%Y-%m-%d}. Nothing was released.",
            remedy,
        )
    return approval
