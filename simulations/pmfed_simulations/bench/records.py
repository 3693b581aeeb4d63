"""What protecting patients instead of records costs: accuracy at equal epsilon, on patients with 1 to 30 visits.

``python -m pmfed_simulations.bench.records`` prints the table of docs/records.md. Patients are invented; whoever is
ill comes more often, so that a few of them hold many of the records.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pmfed_client.site.site import read_sites
from rich.console import Console
from rich.table import Table

from pmfed.cohort import read_cohort
from pmfed.methods import plan_for
from pmfed.privacy.groups import patient_epsilon
from pmfed.study import Study
from pmfed_simulations.job import Job
from pmfed_simulations.jobs import run_jobs

SITES = ("north", "south", "west")
PATIENTS = 120  # of each site
MOST = 30  # visits of a patient
FEATURES = 6
EPSILONS = (0.5, 1.0, 2.0, 4.0)
SEEDS = 5

# The public constant that sums are divided by: units over all sites that are trained on. A patient has six visits or so.
EXPECTED = {"patient": 288, "record": 1750}

STUDY = """\
[study]
name = "visits"
title = "Invented patients with 1 to 30 visits"

[cohort]
table = "visits"
record = "visit_id"
max_records = 30
expected_patients = 288

[outcome]
column = "ill"
task = "binary"
classes = ["no", "yes"]
baseline = 0.3

[modalities.visit]
kind = "table"
table = "visits"

[modalities.visit.features]
{features}

[training]
rounds = 60

[training.optimizer]
name = "momentum"
learning_rate = 0.3

[privacy]
epsilon = 1.0
delta = 1e-5
sampling_rate = 0.2
colluders = 1

[evaluation]
split_key = "visits"
every = 60
"""

SITE = """\
[site]
name = "{name}"

[data]
visits = "visits.csv"

[policy]
epsilon = 1.0
delta = 1e-5
"""


def visits_study() -> Study:
    """Return the study of the visits, with the patient as the unit."""
    lines = [f'x{number} = {{ type = "numeric", minimum = -20, maximum = 20, mean = 0, scale = 1.5 }}'
             for number in range(FEATURES)]  # fmt: skip
    return Study.from_text(STUDY.format(features="\n".join(lines)), "visits.toml")


def write_visits(folder: Path, seed: int, patients: int = PATIENTS) -> None:
    """Write FOLDER/<site>/site.toml and visits.csv: 1 to 30 rows per patient, the first patient with 30.

    Parameters
    ----------
    folder
        Made here.
    seed
        Other seeds give other patients.
    patients
        Of each site.
    """
    chance = np.random.default_rng([seed, 2026])
    effect = np.random.default_rng(2026).normal(0, 0.8, FEATURES)
    for name in SITES:
        place = folder / name
        place.mkdir(parents=True)
        (place / "site.toml").write_text(SITE.format(name=name), encoding="utf-8")
        with (place / "visits.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("patient_id", "visit_id", "ill", *(f"x{number}" for number in range(FEATURES))))
            for patient in range(patients):
                state = chance.normal(size=FEATURES)
                ill = chance.random() < 1 / (1 + np.exp(1 - state @ effect))
                count = MOST if patient == 0 else min(MOST, 1 + int(chance.exponential(9 if ill else 4)))
                for visit in range(count):
                    seen = state + chance.normal(0, 1, FEATURES)
                    row = (f"{name}-{patient}", f"{patient}-{visit}", "yes" if ill else "no")
                    table.writerow((*row, *(f"{value:.3f}" for value in seen)))


@dataclass(frozen=True)
class BenchLine:
    """Held-out AUROC, mean and sd over cohorts, of one unit; and what the promise is to a patient of 30 visits."""

    epsilon: float
    unit: str
    auroc: float
    sd: float
    patient_epsilon: float


def compare(seeds: int = SEEDS, epsilons: tuple[float, ...] = EPSILONS) -> list[BenchLine]:
    """Train with both units at equal epsilon, on the same cohorts.

    Parameters
    ----------
    seeds
        Cohorts to draw.
    epsilons
        Of the unit that is protected.
    """
    found: dict[tuple[float, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(seeds):
            folder = Path(name) / str(seed)
            write_visits(folder / "sites", seed)
            sites = read_sites(folder / "sites")
            base = visits_study()
            cohorts = {site.name: read_cohort(base, site.sources, site.name) for site in sites}
            jobs = {
                (epsilon, unit): Job(folder / f"{unit}-{epsilon:g}", _asking(epsilon, unit), sites, books="private")
                for epsilon in epsilons
                for unit in EXPECTED
            }
            run_jobs(list(jobs.values()), cohorts, len(os.sched_getaffinity(0)))
            for key, job in jobs.items():
                result = json.loads((job.folder / "result.json").read_text(encoding="utf-8"))
                found.setdefault(key, []).append(result["metrics"]["test"]["auroc"])
    lines = []
    for (epsilon, unit), values in found.items():
        worth = patient_epsilon(plan_for(_asking(epsilon, unit), len(SITES)), MOST)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(BenchLine(epsilon, unit, statistics.mean(values), spread, worth))
    return lines


def _asking(epsilon: float, unit: str) -> Study:
    return visits_study().replace(
        privacy={"epsilon": epsilon, "unit": unit}, cohort={"expected_patients": EXPECTED[unit]}
    )


def show(lines: list[BenchLine]) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("epsilon", "protected", "AUROC, held out", f"epsilon of a patient with {MOST} visits"):
        table.add_column(column)
    for line in lines:
        unit = "patient" if line.unit == "patient" else "record (weaker)"
        table.add_row(
            f"{line.epsilon:g}", unit, f"{line.auroc:.3f} +- {line.sd:.3f}", f"{line.patient_epsilon:.1f}"
        )  # fmt: skip
    Console().print(table, highlight=False)


if __name__ == "__main__":
    show(compare())
