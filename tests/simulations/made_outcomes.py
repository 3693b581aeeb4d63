"""Sites whose patients' counts, grades and findings follow a known law, and a study of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pmfed_client.site.site import read_sites
from pmfed_simulations.rosters import pin_rosters

OUTCOMES = {
    "count": 'column = "visits"\ntask = "count"\nmaximum = 40\nbaseline = 2\n',
    "ordinal": 'column = "stage"\ntask = "ordinal"\nclasses = ["0", "I", "II", "III"]\nbaseline = [0.35, 0.3, 0.2, 0.15]\n',
    "multilabel": 'column = "found"\ntask = "multilabel"\nlabels = ["afib", "block"]\nignored = ["normal"]\nbaseline = [0.3, 0.15]\n',
}
STUDY = """
[study]
name = "made"
title = "Made outcomes"

[cohort]
table = "patients"
expected_patients = 1200

[outcome]
{outcome}
[modalities.clinic]
kind = "table"
table = "patients"
features.a = {{ type = "numeric", minimum = -5, maximum = 5, mean = 0, scale = 1 }}
features.b = {{ type = "numeric", minimum = -5, maximum = 5, mean = 0, scale = 1 }}

[training]
rounds = 40
optimizer = {{ name = "momentum", learning_rate = 0.3 }}

[privacy]
epsilon = 4.0
delta = 1e-4
sampling_rate = 0.3

[evaluation]
every = 40
per_site = true
"""
SITE = """
[site]
name = "{name}"
[data]
patients = "patients.csv"
[policy]
epsilon = 50.0
delta = 1e-3

min_patients = 20
exact_metrics = true
per_site_metrics = true
"""


def write(folder: Path, kind: str, patients: int = 1500, sites: int = 3) -> Path:
    """Write the sites and their study, and return its file."""
    random = np.random.default_rng(5)
    a, b = random.normal(size=(2, patients)).round(3)
    visits = np.minimum(random.poisson(np.exp(0.5 + 0.6 * a - 0.3 * b)), 40)
    stage = np.array(["0", "I", "II", "III"])[
        (1.5 * a + b + random.logistic(size=patients) > np.array([[-0.8], [0.8], [2.2]])).sum(axis=0)
    ]
    afib, block = (random.random(patients) < 1 / (1 + np.exp(-logit)) for logit in (2 * a - 1, 2 * b - 2))
    found = [
        ";".join(["afib"] * int(one) + ["block"] * int(other)) or "normal"
        for one, other in zip(afib, block, strict=True)
    ]
    table = pd.DataFrame(
        {
            "patient_id": [f"p{k:04}" for k in range(patients)],
            "a": a,
            "b": b,
            "visits": visits,
            "stage": stage,
            "found": found,
        }
    )
    for place, name in enumerate(("north", "south", "west")[:sites]):
        home = folder / "sites" / name
        home.mkdir(parents=True)
        table[place::sites].to_csv(home / "patients.csv", index=False)
        (home / "site.toml").write_text(SITE.format(name=name), encoding="utf-8")
    pin_rosters(read_sites(folder / "sites"))
    study = folder / "study.toml"
    study.write_text(STUDY.format(outcome=OUTCOMES[kind]), encoding="utf-8")
    return study
