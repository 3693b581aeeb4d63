"""Whether the budget has room for a run: its cohorts' patients over all runs, and one study over all of its runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from pmfed.errors import BudgetError
from pmfed.privacy.accounting import epsilon, rdp_epsilon
from pmfed_client.ledger.entries import Book, Costs, Entry, as_releases, may_share


def admit_study(
    book: Book, run: str, study: str, wanted: Mapping[str, tuple[str, Entry]], allowed: float, delta: float
) -> None:
    """Refuse a run whose study would cost more than one study may, over all its runs."""
    others = [name for name, one in book.runs.items() if one.study == study and name != run]
    bound = rdp_epsilon if others else epsilon  # as in `admit`
    for cohort in sorted({cohort for cohort, _ in wanted.values()}):
        costs: Costs = Counter()
        for name in others:
            costs += book.costs(cohort, name)
        for other, entry in wanted.values():
            if may_share(cohort, other):
                costs += entry.costs
        total = bound(as_releases(costs), delta)
        if not total <= allowed:
            raise BudgetError(
                f"all runs of this study together would cost epsilon {total:.4f} on the cohort '{cohort}', and this site "
                f"allows {allowed:.4f} for one study (at delta {delta:g}). Nothing was released.",
                "Ask for less, or for a larger [policy] study_epsilon in the hospital's site.toml.",
            )


def admit(book: Book, run: str, cohort: str, asked: Costs, budget: tuple[float, float]) -> None:
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
