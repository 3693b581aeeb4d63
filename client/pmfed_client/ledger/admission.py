"""Whether the budget has room for a run: its cohorts' patients over all runs, and one study over all of its runs; and
whether the approval that a run stands under has room for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pmfed.errors import ApprovalError, BudgetError
from pmfed.privacy.accounting import epsilon, rdp_epsilon
from pmfed_client.ledger.entries import Book, Costs, Entry, as_releases, may_share

Wanted = Mapping[str, tuple[str, Entry]]
"""what -> (cohort, entry) of a plan."""


@dataclass(frozen=True)
class Allowance:
    """What one approval allows: so many runs, which together may cost a patient so much."""

    approval: str
    runs: int
    epsilon: float


def cost_of(wanted: Wanted, delta: float, runs: int = 1) -> float:
    """Return what so many runs of a plan cost the patients it costs most, as `admit` counts them."""
    bound = epsilon if runs == 1 else rdp_epsilon
    return max(bound(as_releases(Counter({one: runs * n for one, n in _asked(wanted, cohort).items()})), delta)
               for cohort in _cohorts(wanted))  # fmt: skip


def admit_approved(book: Book, run: str, study: str, wanted: Wanted, allowed: Allowance, delta: float) -> None:
    """Refuse a run for which its approval has no room, or beside which another of its study is not over."""
    for name, one in book.runs.items():
        if one.study == study and name != run and not one.finished:
            raise ApprovalError(
                f"run '{name[:12]}' of this study is not over at this site, which takes part in one at a time. Nothing was released.",
                "Resume that run, or end it there: pmfed site end RUN",
            )
    under = [name for name, one in book.runs.items() if one.approval == allowed.approval and name != run]
    began = sum(book.runs[name].began for name in under)
    if began >= allowed.runs:
        many = "one run" if allowed.runs == 1 else f"{allowed.runs} runs"
        raise ApprovalError(
            f"this hospital approved {many} of this study, and {'it has' if began == 1 else 'they have'} been. Nothing was released.",
            "Approve the study again: pmfed site approve STUDY.toml SITE",
        )
    _admit_together(book, under, wanted, allowed.epsilon, delta, "for the runs of one approval", "approve it for more")


def admit_study(book: Book, run: str, study: str, wanted: Wanted, allowed: float, delta: float) -> None:
    """Refuse a run whose study would cost more than one study may, over all its runs."""
    others = [name for name, one in book.runs.items() if one.study == study and name != run]
    key = "ask for a larger [policy] study_epsilon in the hospital's site.toml"
    _admit_together(book, others, wanted, allowed, delta, "for one study", key)


def _admit_together(
    book: Book, others: Collection[str], wanted: Wanted, allowed: float, delta: float, what: str, remedy: str
) -> None:
    bound = rdp_epsilon if others else epsilon  # as in `admit`
    for cohort in _cohorts(wanted):
        costs = _asked(wanted, cohort)
        for name in others:
            costs += book.costs(cohort, name)
        total = bound(as_releases(costs), delta)
        if not total <= allowed:
            raise BudgetError(
                f"all runs of this study together would cost epsilon {total:.4f} on the cohort '{cohort}', and this site "
                f"allows {allowed:.4f} {what} (at delta {delta:g}). Nothing was released.",
                f"Ask for less, or {remedy}.",
            )


def _cohorts(wanted: Wanted) -> list[str]:
    return sorted({cohort for cohort, _ in wanted.values()})


def _asked(wanted: Wanted, cohort: str) -> Costs:
    """Return what a plan costs the patients of a cohort."""
    asked: Costs = Counter()
    for other, entry in wanted.values():
        if may_share(cohort, other):
            asked += entry.costs
    return asked


def admit(book: Book, run: str, cohort: str, wanted: Wanted, budget: tuple[float, float]) -> None:
    """Refuse a run for which the budget of a cohort has no room; one that is known asks for nothing more."""
    asked: Costs = Counter() if run in book.runs else _asked(wanted, cohort)
    allowed, delta = budget
    if not (0 < allowed < math.inf and 0 < delta < 1):
        raise BudgetError(
            f"this site allows epsilon {allowed:g} at delta {delta:g}: no budget. Nothing was released.",
            "The hospital sets [policy] epsilon and delta in its site.toml.",
        )
    before = book.costs(cohort)
    # The first run of a cohort is fixed before anyone has seen a result of it: the joint PLD bounds it tightly. Later
    # ones may be chosen after looking, and for those the Renyi bound is the one that is proven to filter.
    others = any(book.costs(cohort, name) for name in book.runs if name != run)
    bound = rdp_epsilon if others else epsilon
    total = bound(as_releases(before + asked), delta)
    if total <= allowed:
        return
    spent = bound(as_releases(book.costs(cohort, reserved=False)), delta)
    held = bound(as_releases(before), delta)
    alone = bound(as_releases(asked), delta)
    waiting = ", ".join(f"'{name}'" for name in book.unfinished() if name != run)
    raise BudgetError(
        f"run '{run}' asks for epsilon {alone:.4f} on the cohort '{cohort}'; {spent:.4f} is spent there, "
        f"{held:.4f} with what unfinished runs have reserved; together that makes {total:.4f}, and this site "
        f"allows {allowed:.4f} (all at delta {delta:g}). Nothing was released.",
        "Ask for less (fewer rounds, more noise), or for a larger [policy] epsilon in the hospital's site.toml."
        + (f" Unfinished runs: {waiting}; finishing them gives back what they have not used." * bool(waiting)),
    )
