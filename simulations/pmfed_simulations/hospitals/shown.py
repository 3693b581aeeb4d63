"""pmfed data hospitals: writing virtual hospitals while a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pmfed_simulations.hospitals.habits import HABITS
from pmfed_simulations.hospitals.real import write_real_hospitals


def show_hospitals(out: Path, sites: int, patients: int, seed: int) -> None:
    """Write virtual hospitals into a folder; say what was written, how well one could do, and what comes next."""
    with _bar() as progress:
        truth = write_real_hospitals(out, sites=sites, patients=patients, seed=seed, progress=progress)
    console = Console(highlight=False, soft_wrap=True)
    written, cohort = sum(truth.in_sources.values()), sum(truth.patients.values())
    console.print(f"{out}: {sites} hospitals, {written:,} patients, {cohort:,} with consent and a known outcome.")
    for number, (name, size) in enumerate(truth.in_sources.items()):
        habits = HABITS[number % len(HABITS)]
        formats = {"omop": "OMOP (DuckDB)", "fhir": "FHIR (NDJSON)"}[habits.records.form]
        formats += ", VCF" * (habits.laboratory is not None) + ", DICOM" * (habits.scanner is not None)
        console.print(f"  {name:<12} {size:>6,} patients  {habits.title:<20} {formats}")
    console.print(
        f"Best possible AUC: {truth.law_auc:.3f} with everything known; from what is recorded "
        f"{truth.reachable_auc:.3f}, and {truth.reachable_auc_held_out:.3f} on the held-out patients."
    )
    console.print(f"next: pmfed simulate {out / 'study.toml'} --sites {out}")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how far it is: a bar in a terminal, nothing elsewhere."""
    if not sys.stdout.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("writing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
