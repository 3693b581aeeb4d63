"""What a hospital sees of its ledger: budget, spent, and a line per run."""

from __future__ import annotations

from rich.table import Table

from pmfed.errors import LedgerError
from pmfed.privacy.rounding import rounded_up
from pmfed.terminal import console
from pmfed_client.ledger.ledger import Ledger
from pmfed_client.site.site import Site


def open_ledger(site: Site) -> Ledger:
    """Return the ledger of a site; LedgerError when it has none yet, rather than making an empty one."""
    if not site.ledger.exists():
        raise LedgerError(f"{site.ledger}: this site has no ledger yet.", "It is made when the site enrols in a run.")
    return Ledger(site.ledger)


def show_ledger(site: Site) -> None:
    """Print what is spent of the site's budget, and by which runs."""
    ledger = open_ledger(site)
    allowed, delta = site.policy.budget
    rows = list(ledger.rows())
    screen = console()
    screen.print(f"{site.name}  {len(rows)} rows, the chain is whole", style="bold")
    for cohort in sorted({row.cohort for row in rows if row.cohort}):
        if delta > 0:
            spent, held = (ledger.spent(cohort, delta, reserved=reserved) for reserved in (False, True))
            screen.print(
                f"cohort {cohort}: epsilon {rounded_up(spent, 3):g} spent, {rounded_up(held, 3):g} with what unfinished runs have reserved, of "
                f"{allowed:g} (delta {delta:g})",
            )
    table = Table(box=None, pad_edge=False)
    for name in ("run", "study", "since", "state", "charged", "epsilon"):
        table.add_column(name, justify="right" if name == "epsilon" else "left")
    for run in dict.fromkeys(row.run for row in rows if row.kind != "migrate"):
        said = ledger.receipt(run)
        since = next(row.time for row in rows if row.run == run)
        charged = ", ".join(f"{count} {what}" for what, count in said["charges"].items())
        state = "finished" if said["finished"] else "under way"
        state = "ended here" if any(row.run == run and row.kind == "end" for row in rows) else state
        table.add_row(run[:12], said["study"][:12], since[:16], state, charged, f"{rounded_up(said['epsilon'], 3):g}")
    screen.print(table)
