"""`pmfed site check`: what a site's sources hold for a study, and what is wrong with them. It stays at the site.

Counts below the site's own minimum are shown as "<n", so that what somebody copies into a mail tells of no single
patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from pmfed.cohort import Cohort, read_cohort
from pmfed.cohort.imaging.places import Places
from pmfed.errors import PolicyError
from pmfed.methods import plan_for
from pmfed.plain import plain
from pmfed.study import Study
from pmfed.terminal import console
from pmfed_client.site import lost_values
from pmfed_client.site.site import Site

_COUNTED = re.compile(
    r"(?<![\w.,-])(?P<number>\d[\d,]*) (?P<noun>(?:structural )?"
    r"(?:patient|person|people|record|row|cell|value|event|note|sample|call|series|scan|picture|slice|file|pair|date)s?)\b"
)


@dataclass(frozen=True)
class CheckLine:
    """One count beside the whole it is part of: ``of`` is 0 where there is none."""

    name: str
    count: str
    share: float | None = None


@dataclass(frozen=True)
class Checked:
    """What a check found, in counts that may be shown.

    Attributes
    ----------
    facts, coverage, outcome, missing, seen
        Lines of: the cohort, patients per modality, patients per outcome, records that lack a feature, and whatever
        else the readers counted.
    warnings
        What is odd, but no error.
    policy
        Why this site's policy would not admit the study; None when it would.
    red
        What a person has to mend or to accept by name before the study can be approved.
    losses
        What became of the values of each feature.
    """

    study: str
    site: str
    facts: tuple[CheckLine, ...]
    coverage: tuple[CheckLine, ...]
    outcome: tuple[CheckLine, ...]
    missing: tuple[CheckLine, ...]
    seen: tuple[CheckLine, ...]
    warnings: tuple[str, ...]
    policy: PolicyError | None = None
    red: tuple[str, ...] = ()
    losses: tuple[CheckLine, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)


def check(site: Site, study: Study, places: Places | None = None) -> Checked:
    """Read a site's patients for a study, and count.

    Raises
    ------
    DataError
        The sources do not hold what the study needs; every problem is listed.
    """
    cohort = read_cohort(study, site.sources, site.name, places or site.places)
    found, least = cohort.findings, site.policy.min_patients
    total = found.patients

    def line(name: str, number: int, whole: int = 0) -> CheckLine:
        small = 0 < number < least
        share = None if small or not whole else number / whole
        return CheckLine(name, f"<{least}" if small else f"{number:,}", share)

    def parts(counted: list[tuple[str, int]]) -> list[CheckLine]:
        """Of parts of a whole that is shown, one small one would follow from the others: the largest is not told."""
        lines = [line(name, number, total) for name, number in counted]
        if any(0 < number < least for _, number in counted):
            largest = max(range(len(counted)), key=lambda place: counted[place][1])
            lines[largest] = CheckLine(counted[largest][0], "the rest")
        return lines

    reasons = lost_values.red(site, found.uses)
    lost_values.keep(site, study, found.uses, reasons)
    facts = (
        line("patients", total),
        line("records", found.records),
        *parts([("training patients", found.training), ("held-out patients", found.held_out)]),
        line("patients without an outcome, left out", found.dropped_no_outcome),
        line("patients without consent, left out", found.dropped_no_consent),
        line("records over the study's cap, left out", found.dropped_over_cap),
    )
    return Checked(
        study=study.study.title,
        site=site.title or site.name,
        facts=facts,
        coverage=tuple(
            CheckLine(name, f"all but <{least}") if 0 < total - number < least else line(name, number, total)
            for name, number in sorted(found.coverage.items())
        ),
        outcome=tuple(parts(_balance(study, cohort))),
        missing=tuple(line(name, number, found.records) for name, number in sorted(found.missing.items()) if number),
        seen=tuple(
            # Variants are the study's, not patients'.
            CheckLine(name, f"{number:,}") if name.partition(": ")[2].startswith("variants") else line(name, number)
            for name, number in sorted(found.counts.items())
        ),
        warnings=tuple(_veiled(warning, least) for warning in found.warnings),
        policy=_policy(site, study, cohort),
        red=tuple(reasons),
        losses=tuple(
            CheckLine(f"{name}: {what}", number) for name, what, number in lost_values.rows(found.uses, least)
        ),
        inputs={name: " x ".join(map(str, m.shape)) for name, m in sorted(study.modalities.items())},
    )


def _veiled(warning: str, least: int) -> str:
    """Return a sentence in which a small number of patients, or of what patients have, is told as "<n"."""

    def veil(found: re.Match[str]) -> str:
        small = 0 < int(found["number"].replace(",", "")) < least
        return f"<{least} {found['noun']}" if small else found[0]

    return _COUNTED.sub(veil, warning)


def _balance(study: Study, cohort: Cohort) -> list[tuple[str, int]]:
    """Return patients per class, or per quarter of the possible values, by their first record."""
    return study.outcome.balance(cohort.targets[np.searchsorted(cohort.owner, np.arange(cohort.patients))])


def _policy(site: Site, study: Study, cohort: Cohort) -> PolicyError | None:
    """Return why the policy would refuse, as far as one site can know: it does not know how many others there are."""
    try:
        plan = plan_for(study, study.fewest_sites + 1)
        training = int(cohort.training.sum())
        site.policy.admit(study, plan, training, cohort.patients - training)
    except PolicyError as error:
        return type(error)(f"the policy of '{site.name}' would refuse this study: {error.what}", error.remedy)
    return None


@contextmanager
def progress(site: Site) -> Iterator[Places]:
    """Show how far the readers are, with the time left; yield the places that report to it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as shown:
        tasks: dict[str, int] = {}

        def tell(what: str) -> object:
            def update(done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = shown.add_task(what, total=total)
                shown.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

            return update

        yield replace(site.places, indexing=tell("reading headers"), decoding=tell("decoding scans"))  # type: ignore[arg-type]


def show(checked: Checked) -> None:
    """Print what a check found."""
    screen = console()  # which takes a study's words as they are, brackets and all
    screen.print(plain(f"{checked.site}: {checked.study}"), style="bold")
    for title, lines in sections(checked):
        table = Grid(
            box=None, show_header=False, pad_edge=False, title=f"\n{title}", title_justify="left", title_style="bold"
        )
        table.add_column(width=46)
        table.add_column(justify="right")
        table.add_column(justify="right", style="dim")
        for line in lines:
            table.add_row(plain(line.name), line.count, "" if line.share is None else f"{line.share:.0%}")
        screen.print(table)
    for warning in checked.warnings:
        screen.print("note", plain(warning), style="yellow", soft_wrap=True)
    for reason in checked.red:
        screen.print("NOT READY", plain(reason), style="bold red", soft_wrap=True)


def sections(checked: Checked) -> list[tuple[str, tuple[CheckLine, ...]]]:
    """Return the parts of a check that hold anything, with their titles."""
    parts = (
        ("cohort", checked.facts),
        ("outcome, patients", checked.outcome),
        ("modalities, patients who have them", checked.coverage),
        ("records that lack a value", checked.missing),
        ("values of each feature", checked.losses),
        ("seen by the readers", checked.seen),
    )
    return [(title, lines) for title, lines in parts if lines]
