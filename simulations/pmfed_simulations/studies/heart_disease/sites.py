"""The UCI Heart Disease data at their four hospitals, cleaned and split exactly as FLamby does.

FLamby (NeurIPS 2022) drops three mostly empty columns and every row with a missing value, and splits
each hospital 66/34 with a fixed seed, stratified by outcome where both outcomes are frequent enough.
Same rows, same split: its published accuracies may stand beside ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pmfed_simulations.site_tables import PublicSites, Sites, SiteTables, read_source

DATA = "heart_disease_uci"
_COLUMNS = (
    "age", "sex", "chest_pain", "resting_pressure", "cholesterol", "high_sugar", "resting_ecg", "max_heart_rate",
    "exercise_angina", "st_depression", "slope", "vessels", "thal", "num",
)  # fmt: skip
_DROPPED = ("slope", "vessels", "thal")
_HOSPITALS = {
    "cleveland": "Cleveland Clinic Foundation",
    "hungarian": "Hungarian Institute of Cardiology, Budapest",
    "switzerland": "University Hospitals Zurich and Basel",
    "va": "V.A. Medical Center, Long Beach",
}
_PAIN = {"1": "typical", "2": "atypical", "3": "non-anginal", "4": "none"}
_ECG = {"0": "normal", "1": "st-t", "2": "hypertrophy"}


def tables(folder: Path) -> Sites:
    """Yield the four hospitals; column ``split`` says train or test."""
    for name, title in _HOSPITALS.items():
        table = read_source(folder / f"processed.{name}.data", DATA, _COLUMNS, header=False)
        table = table.drop(columns=list(_DROPPED)).replace("?", np.nan).dropna().reset_index(drop=True)
        disease = table.pop("num").astype(float).gt(0).astype(int)
        # The original files write codes as 1 or 1.0 depending on the hospital.
        table = table.astype(float)
        codes = {"chest_pain": _PAIN, "resting_ecg": _ECG}
        for column, meaning in codes.items():
            table[column] = table[column].astype(int).astype(str).map(meaning)
        # 0 mg/dl and 0 mmHg are how these files write "not measured"; the row counts as complete for FLamby.
        for column in ("cholesterol", "resting_pressure"):
            table[column] = table[column].where(table[column] > 0)
        table.insert(0, "patient_id", [f"{name}-{number:03d}" for number in range(1, len(table) + 1)])
        table["disease"] = disease
        table["split"] = _split(disease.to_numpy())
        yield SiteTables(name=name, title=title, tables={"patients": table})


def _split(disease: np.ndarray) -> np.ndarray:
    """Return FLamby's ``train`` or ``test`` per patient of one hospital."""
    from sklearn.model_selection import train_test_split  # a second to import; other studies need none of it

    counts = np.bincount(disease, minlength=2)
    _, test = train_test_split(
        np.arange(len(disease)),
        test_size=1.0 - 0.66,
        train_size=0.66,
        random_state=43,
        shuffle=True,
        stratify=disease if counts.min() > 2 else None,
    )
    split = np.full(len(disease), "train", dtype=object)
    split[test] = "test"
    return split


SITES = PublicSites(tables, DATA, delta=1e-3)
