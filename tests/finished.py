"""Finished runs for tests, whose models have numbers of their own, and sites with gaps in their tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from small import small_study

from pmfed.cohort import Cohort
from pmfed.cohort.statistics import rows, statistics_size
from pmfed.methods.gradient import write_model
from pmfed.models import shared_start
from pmfed.study import Study

LEARNED = {
    "clinic": {
        "kind": "table",
        "table": "patients",
        "features": {
            "age": {"type": "numeric", "minimum": 0, "maximum": 120},
            "urea": {"type": "numeric", "minimum": 0, "maximum": 300, "transform": "log1p"},
            "sex": {"type": "categorical", "values": ["f", "m"]},
        },
    },
    "scan": {"kind": "images", "table": "patients", "folder": "scans", "size": [32, 32], "weights": "efficientnet-lite0", "centred": True},
}  # fmt: skip


def table(folder: Path, patients: int = 40, **columns: Any) -> Path:
    """Write a site whose table has gaps, and pictures for most patients."""
    random = np.random.default_rng(5)
    (folder / "scans").mkdir(parents=True)
    frame = pd.DataFrame(
        {
            "patient_id": [f"canary-{place:04d}" for place in range(patients)],
            "age": random.uniform(20, 90, patients).round(1),
            "urea": random.uniform(1, 200, patients).round(2),
            "sex": random.choice(["f", "m"], patients),
            "died": random.choice(["no", "yes"], patients),
            "file": [f"{place % 3}.png" if place % 5 else "" for place in range(patients)],
        }
    )
    frame["urea"] = frame["urea"].where(frame.index % 4 > 0)
    for place in range(3):
        Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / "scans" / f"{place}.png")
    frame.assign(**columns).to_csv(folder / "patients.csv", index=False)
    (folder / "site.toml").write_text('[site]\nname = "north"\n[data]\npatients = "patients.csv"\nscans = "scans"\n')
    return folder


CLINIC = {"clinic": {**LEARNED["clinic"], "features": {
    "age": {"type": "numeric", "minimum": 0, "maximum": 120, "mean": 60, "scale": 15},
    "urea": {"type": "numeric", "minimum": 0, "maximum": 300, "mean": 3, "scale": 1, "transform": "log1p", "indicator": True},
    "sex": {"type": "categorical", "values": ["f", "m"]},
}}}  # fmt: skip
SMALL = small_study(CLINIC)


def finished(folder: Path, study: Study, cohorts: Sequence[Cohort] = ()) -> tuple[Path, NDArray[np.float32]]:
    """Write a run whose model has numbers of its own; return it and what the coordinator would send for scoring."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(11)
    values = (0.3 * random.normal(size=len(shared_start(study)))).astype(np.float32)
    sums = None
    if study.needs_statistics:
        total = sum((rows(study, one).sum(axis=0) for one in cohorts), np.zeros(statistics_size(study)))
        sums = (100 * total).astype(np.float32)  # of many such patients: the noise hides nothing
    write_model(folder, study, values, sums)
    (folder / "run-id").write_text("ab" * 16)
    return folder, values if sums is None else np.concatenate([values, sums])
